//! Integration tests: one binary, which touches only the forkpy binary and the protocol it publishes.

mod zygote;
