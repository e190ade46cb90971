"""What every other room stands on: where the session is, its streams, its questions."""
