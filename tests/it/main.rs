//! Integration tests: one binary, which touches only the forkpy binary and the protocol it publishes.

mod bad_input;
mod cells;
mod clients;
mod clock;
mod command_line;
mod display;
mod endings;
mod environment;
mod evidence;
mod faults;
mod files;
mod hostile;
mod http;
mod http_files;
mod input;
mod limits;
mod live;
mod operators;
mod output;
mod recovery;
mod resources;
mod scripts;
mod shutdown;
mod soak;
mod support;
mod zygote;
