//! The program: chooses the role of this process and runs it. No runtime exists before the choice, and no thread is left.
//!
//! Runs in: any process of forkpy, before its role is chosen. Owns what commands print. Never: what a command does.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use anyhow::Context;

use crate::{
    bench::{self, BenchError},
    bundle,
    commands::{
        attach,
        cli::{Cli, Role},
        deploy, doctor,
        error::SetupError,
        guide, install, licences,
        servers::{self, ServersError},
        sessions::{self, SessionsError},
        shell, token,
    },
    progress, server,
    settings::{
        file, logging,
        options::{ServeOptions, Transport},
        resolve::{self, Settings},
    },
    sys::descriptors,
    zygote,
};

/// What `main` is: plays a role, and says what kept it from being played.
#[must_use]
pub fn run() -> ExitCode {
    let Err(error) = play() else { return ExitCode::SUCCESS };
    // `forkpy man | head`: who reads has read enough.
    if is_unread(&error) {
        return ExitCode::SUCCESS;
    }
    say(&words(&error));
    ExitCode::FAILURE
}

/// The error and what it comes from, each thing once.
fn words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words += ": ";
            words += &cause;
        }
    }
    words
}

#[expect(clippy::print_stderr, reason = "a person waits for it")]
fn say(words: &str) {
    eprintln!("error: {words}");
}

/// Whether standard output was closed by who read it.
fn is_unread(error: &anyhow::Error) -> bool {
    let output = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(SetupError::Output(error)), ..) => Some(error),
        (_, Some(ServersError::Output(error)), _) => Some(error),
        (.., Some(BenchError::Output(error))) => Some(error),
        _ => match error.downcast_ref() {
            Some(SessionsError::Output(error)) => Some(error),
            _ => error.downcast_ref::<io::Error>(),
        },
    };
    output.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn play() -> anyhow::Result<()> {
    // SAFETY: nothing has run yet that could have made a thread.
    unsafe { resolve::take_token() };
    bundle::find_certificates();
    if let Some(words) = bundle::python::wanted() {
        bundle::supply_libraries();
        std::process::exit(bundle::python::run(words));
    }
    let cli = file::parse(Cli::settings_file)?;
    match cli.role {
        Some(Role::Zygote { socket, server, huge_pages }) => {
            bundle::supply_libraries();
            // SAFETY: the server left this descriptor open for this role and tells its number on the command line;
            // nothing else in this process has touched descriptors yet.
            let stream = unsafe { descriptors::inherited_stream(socket) };
            descriptors::close_on_exec(stream.as_fd(), true)?;
            zygote::run(stream, server, huge_pages).context("the zygote ended")
        }
        Some(Role::Bench(ref args)) => Ok(bench::run(args, cli.serve.for_same_python(), &cli.serve.preloaded())?),
        Some(Role::Install(ref args)) => Ok(install::install(args, &mut io::stdout())?),
        Some(Role::Uninstall(ref args)) => Ok(install::uninstall(args, &mut io::stdout())?),
        Some(Role::Doctor(ref args)) => Ok(doctor::doctor(&cli.serve, args, &mut io::stdout())?),
        Some(Role::Deploy(ref args)) => Ok(deploy::deploy(args, &mut io::stdout())?),
        Some(Role::Licences) => Ok(licences::licences(&mut io::stdout())?),
        Some(Role::Guide(ref args)) => Ok(guide::guide(args)?),
        Some(Role::Completions { shell }) => Ok(shell::completions(shell, &mut io::stdout())?),
        Some(Role::Man { ref of }) => Ok(shell::man(of.as_deref(), &mut io::stdout())?),
        Some(Role::Python { .. }) => anyhow::bail!("`python` comes first: forkpy python …"),
        Some(Role::Bundle(ref args)) => make_bundle(args),
        Some(Role::Echo { link }) => bench::echo::run(link).context("the channel broke"),
        Some(Role::Attach(ref args)) => {
            greet_person();
            Ok(attach::attach(args)?)
        }
        Some(Role::Host(args)) => host(*args),
        Some(Role::Token(ref args)) => Ok(token::token(args, &mut io::stdout())?),
        Some(Role::Status(ref args)) => Ok(servers::status(args, &mut io::stdout())?),
        Some(Role::Sessions(ref args)) => Ok(sessions::sessions(args, &mut io::stdout())?),
        Some(Role::Restart(ref args)) => Ok(servers::restart(args, &mut io::stdout())?),
        Some(Role::State { words }) => Ok(writeln!(io::stdout(), "{}", state(words))?),
        Some(Role::Stop(ref args)) => Ok(servers::stop(args, &mut io::stdout())?),
        None => serve(cli.serve),
    }
}

/// A line for each step, and on a terminal one that moves while the step takes.
#[expect(clippy::print_stderr, reason = "a person waits for it")]
#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn make_bundle(args: &bundle::make::BundleArgs) -> anyhow::Result<()> {
    let shown = progress::of("making a bundle");
    let made = bundle::make::make(args, &mut |what| {
        progress::aside(|| eprintln!("{what}"));
        shown.say(what);
    })?;
    drop(shown);
    for file in [&made.single, &made.archive].into_iter().chain(&made.more) {
        let size = file.metadata()?.len();
        eprintln!("{}: {:.1} MB", file.display(), size as f64 / 1e6);
    }
    Ok(())
}

/// The server behind `attach`: what is wrong with its options is said while the front listens, all else in its log.
fn host(args: attach::HostArgs) -> anyhow::Result<()> {
    let (options, args) = args.into_parts();
    let log = options.log.clone();
    logging::check(&log).with_context(|| format!("--log {log:?} is no filter"))?;
    let settings = Settings::resolve(options)?;
    let host = attach::go_behind(args).context("failed to go into the background")?;
    logging::to_stderr(&log)?;
    Ok(server::serve(settings, Some(host))?)
}

/// What a server is told that is to become this program with such a command line: that its state is understood, or what is wrong
/// with the command line, which would end this program when it is too late.
fn state(words: Vec<std::ffi::OsString>) -> String {
    let could_be = || -> anyhow::Result<()> {
        let words = std::iter::once("forkpy".into()).chain(words).collect();
        let cli: Cli = file::parse_words(words, Cli::settings_file)?;
        let options = match cli.role {
            Some(Role::Host(args)) => args.into_parts().0,
            _ => cli.serve,
        };
        logging::check(&options.log).with_context(|| format!("--log {:?} is no filter", options.log))?;
        Ok(server::check(&Settings::resolve(options)?)?)
    };
    match could_be() {
        Ok(()) => server::understood(),
        Err(error) => server::cannot(&error),
    }
}

/// What a person sees who typed a command that clients start.
const HELLO: &str = "\
forkpy speaks MCP here, which is for programs: JSON-RPC lines on standard input and output. Ctrl-D ends it.
For people:
  forkpy install --client NAME   connects a client (claude-code, cursor, vscode, codex, gemini, zed, …)
  forkpy doctor                  checks this machine, and runs a session
  forkpy guide                   explains the rest
";

fn greet_person() {
    if io::stdin().is_terminal() {
        let _ = io::stderr().write_all(HELLO.as_bytes());
    }
}

fn serve(options: ServeOptions) -> anyhow::Result<()> {
    if options.transport == Transport::Stdio {
        greet_person();
    }
    logging::to_stderr(&options.log).with_context(|| format!("--log {:?} is no filter", options.log))?;
    Ok(server::serve(Settings::resolve(options)?, None)?)
}
