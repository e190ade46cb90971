//! `forkpy deploy`: complete configurations for several servers, printed.
//!
//! Runs in: a process of its own. Owns the recipes, which are files beside this one. Writes nothing but standard output.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::error::SetupError;
use crate::settings::store::StorePlace;

const HAPROXY: &str = include_str!("haproxy.cfg");
const SYSTEMD: &str = include_str!("forkpy@.service");
const KUBERNETES: &str = include_str!("kubernetes.yaml");
const AGENT_SANDBOX: &str = include_str!("agent-sandbox.yaml");

/// Port of the first of several servers on one machine.
const FIRST_PORT: u16 = 8001;

/// What `forkpy deploy` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeployArgs {
    /// What is to run the servers, or to stand before them
    #[arg(value_enum)]
    pub target: Target,

    /// How many servers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub servers: u16,

    /// Address of a server, instead of 127.0.0.1:8001 and so on; may be repeated (haproxy)
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Vec<String>,

    /// Where the balancer listens (haproxy)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    pub bind: String,

    /// The image that containers run (kubernetes, agent-sandbox)
    #[arg(long, default_value = "forkpy")]
    pub image: String,

    /// The bucket that all servers share: each puts away what rests there, and has what is asked of it (systemd, kubernetes, agent-sandbox)
    #[arg(long, value_name = "s3://BUCKET/PREFIX", value_parser = bucket)]
    pub store: Option<String>,

    /// Whose server it is: letters, digits and '-' (agent-sandbox)
    #[arg(long, default_value = "someone", value_parser = owner)]
    pub owner: String,
}

/// A recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// A balancer's configuration
    Haproxy,
    /// A unit for each server of a machine
    Systemd,
    /// Servers and their balancer, as resources for kubectl
    Kubernetes,
    /// A server of its own for one owner, by the resource Sandbox
    AgentSandbox,
}

/// A label of Kubernetes, which is also part of a host's name.
fn owner(text: &str) -> Result<String, String> {
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let is_good = (1..=50).contains(&text.len())
        && text.chars().all(inner)
        && text.starts_with(|letter: char| letter != '-')
        && !text.ends_with('-');
    if is_good {
        Ok(text.to_owned())
    } else {
        Err("1 to 50 of a-z, 0-9 and '-', beginning and ending with no '-'".into())
    }
}

/// A bucket; its name stands in files of several kinds. A folder cannot be shared so: each server has a user or a disk of its own.
fn bucket(text: &str) -> Result<String, String> {
    let is_plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || ":/._-".contains(letter));
    match StorePlace::read(text) {
        Ok(StorePlace::Bucket { .. }) if is_plain => Ok(text.to_owned()),
        _ => Err("s3://BUCKET/PREFIX, of letters, digits and '/._-'".into()),
    }
}

/// Prints a recipe.
///
/// # Errors
/// When `out` takes no more.
pub(crate) fn deploy(args: &DeployArgs, out: &mut dyn Write) -> Result<(), SetupError> {
    let text = match args.target {
        Target::Haproxy if args.store.is_some() => return Err(SetupError::NoStore),
        Target::Haproxy => {
            let addresses = addresses(args);
            balancer(&addresses, &args.bind, "localhost", "")
        }
        Target::Systemd => systemd(args),
        Target::Kubernetes => kubernetes(args),
        Target::AgentSandbox => {
            let text = with_store_in_a_pod(AGENT_SANDBOX, args.store.as_deref());
            text.replace("{owner}", &args.owner).replace("{image}", &args.image)
        }
    };
    Ok(out.write_all(text.as_bytes())?)
}

fn addresses(args: &DeployArgs) -> Vec<String> {
    if args.server.is_empty() {
        (0..args.servers).map(|number| format!("127.0.0.1:{}", FIRST_PORT + number)).collect()
    } else {
        args.server.clone()
    }
}

/// What stands before the servers. `more` is what each line of a server ends with.
fn balancer(addresses: &[String], bind: &str, host: &str, more: &str) -> String {
    let lines = |cookie: bool| {
        let line = |(number, address): (usize, &String)| {
            let cookie = if cookie { format!(" cookie s{number}") } else { String::new() };
            format!("    server s{number} {address} check inter 2s fall 3 rise 1{cookie}{more}\n")
        };
        addresses.iter().enumerate().map(line).collect::<String>()
    };
    let resolvers =
        if more.is_empty() { "" } else { "\nresolvers cluster\n    parse-resolv-conf\n    hold valid 5s\n" };
    HAPROXY
        .replace("{count}", &addresses.len().to_string())
        .replace("{bind}", bind)
        .replace("{host}", host)
        .replace("{resolvers}", resolvers)
        .replace("{servers}\n", &(lines(false) + "\n"))
        .replace("{servers_with_cookies}\n", &lines(true))
}

/// Fills in what a server with a store needs, or takes the places out.
fn with_store(text: &str, store: Option<&str>, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(text.to_owned(), |text, (place, part)| match store {
        Some(store) => text.replace(place, &part.replace("{store}", store)),
        // A line of its own, or a part of one.
        None => text.replace(&format!("{place}\n"), "").replace(place, ""),
    })
}

fn with_store_in_a_pod(text: &str, store: Option<&str>) -> String {
    let steps = "#     kubectl create secret generic forkpy-store --from-file=key=KEY_FILE
#     kubectl create secret generic forkpy-store-account --from-env-file=AWS_FILE";
    let parts = [
        ("{store_steps}", steps),
        ("{store_args}", ", --store, \"{store}\", --store-key, /run/secrets/forkpy-store/key"),
        ("{store_env}", "          envFrom: [{secretRef: {name: forkpy-store-account}}]"),
        ("{store_mount}", "            - {name: store, mountPath: /run/secrets/forkpy-store, readOnly: true}"),
        ("{store_volume}", "        - {name: store, secret: {secretName: forkpy-store}}"),
        // The bucket by https, and its name.
        ("{store_egress}", "{ports: [{port: 443}, {port: 53}, {port: 53, protocol: UDP}]}"),
    ];
    with_store(text, store, &parts)
}

fn systemd(args: &DeployArgs) -> String {
    let instances: Vec<String> = (0..args.servers).map(|number| format!("forkpy@{}", FIRST_PORT + number)).collect();
    let steps = "#     install -m 600 KEY_FILE /etc/forkpy/store.key && install -m 600 AWS_FILE /etc/forkpy/store.env";
    let parts = [
        ("{store_steps}", steps),
        ("{store_args}", " --store {store} --store-key %d/store-key"),
        ("{store_lines}", "LoadCredential=store-key:/etc/forkpy/store.key\nEnvironmentFile=/etc/forkpy/store.env"),
    ];
    let text = with_store(SYSTEMD, args.store.as_deref(), &parts);
    text.replace("{instances}", &instances.join(" ")).replace("{program}", "/usr/local/bin/forkpy")
}

fn kubernetes(args: &DeployArgs) -> String {
    let pods: Vec<String> = (0..args.servers).map(|number| format!("forkpy-{number}.forkpy:8000")).collect();
    let config = balancer(&pods, "*:8000", "forkpy", " resolvers cluster init-addr none");
    let within = |line: &str| if line.is_empty() { String::new() } else { format!("    {line}") };
    let config: Vec<String> = config.lines().map(within).collect();
    with_store_in_a_pod(KUBERNETES, args.store.as_deref())
        .replace("{count}", &args.servers.to_string())
        .replace("{image}", &args.image)
        .replace("{haproxy}", &config.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        let all = Target::value_variants().iter().flat_map(|target| [(target, None), (target, Some("s3://b/p"))]);
        for (target, store) in all.filter(|(target, store)| **target != Target::Haproxy || store.is_none()) {
            let args = DeployArgs {
                target: *target,
                store: store.map(str::to_owned),
                servers: 2,
                server: Vec::new(),
                bind: "127.0.0.1:8000".to_owned(),
                image: "example/forkpy:1".to_owned(),
                owner: "ada".to_owned(),
            };
            let mut text = Vec::new();
            deploy(&args, &mut text).expect("memory takes it");
            let text = String::from_utf8(text).expect("text");
            for hole in [
                "{count}",
                "{servers",
                "{bind}",
                "{host}",
                "{image}",
                "{owner}",
                "{instances}",
                "{program}",
                "{haproxy}",
                "{store",
            ] {
                assert!(!text.contains(hole), "{target:?}: {hole}");
            }
            assert_eq!(text.contains("s3://b/p"), store.is_some(), "{target:?}");
            assert!(!text.contains("\n\n\n"), "{target:?}: what is taken out leaves no gap");
        }
    }

    #[test]
    fn a_store_of_several_users_is_a_bucket() {
        assert!(bucket("s3://forkpy/a-b_c.d/e").is_ok());
        for wrong in ["/var/store", "gs://b", "s3://", "s3://b/%d", "s3://b/\"", "s3://b/a b"] {
            assert!(bucket(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn owners_are_labels() {
        assert!(owner("ada-1").is_ok());
        for wrong in ["", "Ada", "a b", "-a", "a-", "a.b"] {
            assert!(owner(wrong).is_err(), "{wrong}");
        }
    }
}
