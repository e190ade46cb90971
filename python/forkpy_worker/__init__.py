"""What forkpy says better in Python: running cells, streams, reports, variables, saved state.

Nine rooms, from the ground up; each imports only those before it (`python/tests/test_layers.py`):
`base` (where the session is, its streams, its questions), `code` (text to code objects), `report`
(how a cell ended, in words), `display` (what a cell shows), `libraries` (fitted when imported),
`variables` (summaries, saving and loading), `lookup` (completion, inspection), `cell` (running
one), `session` (a process from its start to its end).

Owns: nothing but the name. Must import nothing: the zygote's cold start pays for every import here.
Runs in: zygote (imported), workers (used). The Rust side calls it from `src/worker/python.rs` and
`src/zygote/preload.rs` only.

Modules that the first plain cell needs (`session.session`, `session.probe`, `cell.run`,
`cell.history`, `cell.arrivals`, `code.compiling`, `code.sources`, all of `base`) import nothing
that CPython's own start did not; the rest is imported when used.
"""
