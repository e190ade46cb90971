//! The program `forkpy`. All of it is in the library, where the compiler sees what nothing uses.

fn main() -> std::process::ExitCode {
    forkpy::run()
}
