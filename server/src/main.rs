//! The program `spandrel`; everything is in the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    spandrel_server::cli::main()
}
