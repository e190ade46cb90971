"""What forkpy says better in Python: running cells, streams, reports, variables, saved state.

Owns: nothing but the name. Must import nothing: the zygote's cold start pays for every import here.
Runs in: zygote (imported), workers (used). The Rust side calls it from `src/worker/python.rs` and
`src/zygote/preload.rs` only.

Modules that the first plain cell needs (`session`, `cell`, `compiling`, `streams`, `sources`,
`place`, `probe`) import nothing that CPython's own start did not; the rest is imported when used.
"""
