//! The program: chooses the role of this process and runs it. No runtime exists before the choice, and no thread is left.
//!
//! Runs in: any process of forkpy, before its role is chosen. Owns what commands print. Never: what a command does.

use anyhow::Context;

use crate::{
    bench, bundle,
    commands::{
        attach,
        cli::{Cli, Role},
        doctor, error, guide, install, servers, shell,
    },
    server,
    settings::{file, logging, options::ServeOptions, resolve::Settings},
    sys::descriptors,
    zygote,
};

/// What `main` is.
///
/// # Errors
/// What kept the role from being played, in words for the person at the command line.
pub fn run() -> anyhow::Result<()> {
    bundle::launcher::go_on_unpacked()?;
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
            zygote::run(stream, server, huge_pages).context("the zygote ended")
        }
        Some(Role::Bench(ref args)) => Ok(bench::run(args, cli.serve.for_same_python(), &cli.serve.preload)?),
        Some(Role::Install(ref args)) => install(args),
        Some(Role::Doctor(ref args)) => examine(&cli.serve, args),
        Some(Role::Guide(ref args)) => Ok(guide::guide(args)?),
        Some(Role::Completions { shell }) => Ok(shell::completions(shell, &mut std::io::stdout())?),
        Some(Role::Man { ref of }) => Ok(shell::man(of.as_deref(), &mut std::io::stdout())?),
        Some(Role::Python { .. }) => anyhow::bail!("`python` comes first: forkpy python …"),
        Some(Role::Bundle(ref args)) => make_bundle(args),
        Some(Role::Echo) => bench::echo::run().context("the channel broke"),
        Some(Role::Attach(ref args)) => Ok(attach::attach(args)?),
        Some(Role::Host(args)) => host(*args),
        Some(Role::Status(ref args)) => Ok(servers::status(args, &mut std::io::stdout())?),
        Some(Role::Stop(ref args)) => Ok(servers::stop(args, &mut std::io::stdout())?),
        None => serve(cli.serve),
    }
}

#[expect(clippy::print_stderr, reason = "a person waits for it")]
#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn make_bundle(args: &bundle::make::BundleArgs) -> anyhow::Result<()> {
    let made = bundle::make::make(args, &mut |what| eprintln!("{what}"))?;
    for file in [&made.single, &made.archive].into_iter().chain(&made.more) {
        let size = file.metadata()?.len();
        eprintln!("{}: {:.1} MB", file.display(), size as f64 / 1e6);
    }
    Ok(())
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a person asked")]
fn install(args: &install::InstallArgs) -> anyhow::Result<()> {
    let done = install::install(args)?;
    let file = done.file.display();
    if args.dry_run {
        eprintln!("{file} would be:");
        print!("{}", done.text);
    } else if done.unchanged {
        eprintln!("{file} has this entry already");
    } else {
        eprintln!("{file} is written; restart the client to see it");
    }
    if let Some(backup) = done.backup {
        eprintln!("as it was before: {}", backup.display());
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a person asked")]
fn examine(options: &ServeOptions, args: &doctor::DoctorArgs) -> anyhow::Result<()> {
    let findings = doctor::examine(options);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", doctor::text(&findings));
    }
    match findings.iter().filter(|finding| finding.grade == doctor::Grade::Failed).count() {
        0 => Ok(()),
        failed => Err(error::SetupError::Unwell(failed).into()),
    }
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

fn serve(options: ServeOptions) -> anyhow::Result<()> {
    logging::to_stderr(&options.log).with_context(|| format!("--log {:?} is no filter", options.log))?;
    Ok(server::serve(Settings::resolve(options)?, None)?)
}
