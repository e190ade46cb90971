//! `--secret`: the host gets it, and no code does.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use super::{Origin, path, stderr};
use crate::support::Setup;

const TREASURE: &str = "the-treasure-itself";

/// A file with a secret, where no session reads.
fn keep(setup: &Setup, word: &str, mode: u32) -> PathBuf {
    let file = setup.workspace.parent().expect("a parent").join("key");
    fs::write(&file, format!("{word}\n")).expect("written");
    fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("ours");
    file
}

fn header(seen: &Value, name: &str) -> Option<String> {
    let pairs = seen["headers"].as_array().expect("a list").iter();
    let found = pairs.filter(|pair| pair[0].as_str().is_some_and(|found| found.eq_ignore_ascii_case(name)));
    found.map(|pair| pair[1].as_str().expect("a string").to_owned()).next()
}

#[test]
fn the_host_gets_the_secret_and_code_does_not() {
    let origin = Origin::start();
    let setup = Setup::new();
    let file = keep(&setup, TREASURE, 0o600);
    let secret = format!("API_KEY=file:{}@localhost:{}", path(&file), origin.secure);
    let mut forkpy = setup
        .args(&["--sandbox", "workspace", "--allow-net", &format!("127.0.0.1:{}", origin.open), "--secret", &secret])
        .env("SSL_CERT_FILE", path(&origin.file("authority.pem")))
        .env("API_KEY", TREASURE)
        .start();
    let told = forkpy.call("get_workspace_info", json!({})).data["sandbox"]["secrets"][0].clone();
    assert_eq!((&told["name"], &told["host"]), (&json!("API_KEY"), &json!(format!("localhost:{}", origin.secure))));
    let url = told["url"].as_str().expect("an address").to_owned();
    forkpy.run(&format!(
        "import os, urllib.request, urllib.error, http.client\nurl, key = {url:?}, os.environ['API_KEY']\n\
         def get(url, **headers):\n    request = urllib.request.Request(url, headers=headers)\n\
         \x20   return urllib.request.urlopen(request, timeout=60).read().decode()"
    ));
    let placeholder = forkpy.eval("key");
    assert!(placeholder.starts_with("'forkpy-secret-API_KEY-"), "{placeholder}");
    let last = || origin.heard("secure").last().cloned().expect("a request");
    assert_eq!(forkpy.eval("get(url + '/v1/x?a=b')"), "'treasure of secure'");
    assert_eq!(last()["line"], "GET /v1/x?a=b HTTP/1.1");
    assert_eq!(header(&last(), "authorization").as_deref(), Some(&*format!("Bearer {TREASURE}")));
    assert_eq!(header(&last(), "host").as_deref(), Some(&*format!("localhost:{}", origin.secure)));
    forkpy.run("get(url + '/', **{'X-Api-Key': key})");
    assert_eq!((header(&last(), "x-api-key").as_deref(), header(&last(), "authorization")), (Some(TREASURE), None));
    forkpy.run("get(url, Authorization=f'Token {key}!')");
    assert_eq!(header(&last(), "authorization").as_deref(), Some(&*format!("Token {TREASURE}!")));
    forkpy.run("get(url, Authorization='own')");
    assert_eq!(header(&last(), "authorization").as_deref(), Some("own"));
    // A client that knows nothing of proxies.
    let plain = "place, _, name = url.removeprefix('http://').partition('/')\nlink = http.client.HTTPConnection(place, timeout=60)\n\
                 link.request('POST', '/' + name + '/p', body=b'x' * 70000)\nlink.getresponse().read().decode()";
    assert_eq!(forkpy.eval(plain), "'treasure of secure'");
    assert_eq!(last()["body"].as_str().map(str::len), Some(70_000));
    // Elsewhere the placeholder is what it is.
    forkpy.run(&format!("get('http://127.0.0.1:{}/', Authorization=key)", origin.open));
    let elsewhere = origin.heard("open").last().cloned().expect("a request");
    assert_eq!(header(&elsewhere, "authorization").map(|value| format!("'{value}'")), Some(placeholder));
    // Another secret counts at once.
    fs::write(&file, "another-one").expect("written");
    forkpy.run("get(url)");
    assert_eq!(header(&last(), "authorization").as_deref(), Some("Bearer another-one"));
    let count = origin.heard("secure").len();
    for (code, expected) in [
        ("get(url + 'X/')", "400"),
        ("get(url.replace('API_KEY', 'OTHER'))", "400"),
        ("urllib.request.urlopen(urllib.request.Request(url, method='TRACE'), timeout=60)", "400"),
    ] {
        let refused = forkpy.run(code);
        assert!(stderr(&refused).contains(expected), "{code}: {refused}");
    }
    fs::remove_file(&file).expect("there");
    let refused = forkpy.run("get(url)");
    assert!(stderr(&refused).contains("API_KEY cannot be used now"), "{refused}");
    assert_eq!(origin.heard("secure").len(), count);
}

#[test]
fn the_secret_is_nowhere_a_session_looks() {
    let origin = Origin::start();
    let setup = Setup::new();
    let file = keep(&setup, TREASURE, 0o600);
    let secret = format!("API_KEY=file:{}@localhost:{}", path(&file), origin.secure);
    let mut forkpy = setup.args(&["--sandbox", "workspace", "--secret", &secret]).env("API_KEY", TREASURE).start();
    let look = format!(
        "import os, subprocess\nfound = []\n\
         def look(name, text): found.append(name) if {TREASURE:?} in text else None\n\
         look('environ', str(dict(os.environ)))\n\
         look('initial', open('/proc/self/environ', 'rb').read().decode(errors='replace'))\n\
         look('child', subprocess.run(['env'], capture_output=True, text=True).stdout)\n\
         try:\n    look('file', open({:?}).read())\nexcept PermissionError:\n    pass\n\
         str(found)",
        path(&file)
    );
    // What was in the environment when the server started is in the pages of the process, as /proc shows them.
    assert_eq!(forkpy.eval(&look), "'[]'");
    assert!(!forkpy.call("create_session", json!({"session_id": "strict", "sandbox": "strict"})).is_error);
    let code = json!({"session_id": "strict", "code": "import os; str(os.environ.get('API_KEY'))"});
    assert_eq!(forkpy.call("run_python_code", code).data["results"], json!(["'None'"]));
    // The host's certificate is of no authority that this machine trusts.
    let url = forkpy.call("get_workspace_info", json!({})).data["sandbox"]["secrets"][0]["url"].clone();
    let refused = forkpy.run(&format!("import urllib.request\nurllib.request.urlopen({url}, timeout=60)"));
    assert!(stderr(&refused).contains("502") && stderr(&refused).contains("ertificate"), "{refused}");
    assert_eq!(origin.heard("secure"), Vec::<Value>::new());
}

#[test]
fn a_secret_that_is_none_or_lies_open_is_refused_at_the_start() {
    let refused = |mode: &str, permissions: u32, word: &str, secret: &dyn Fn(&str) -> Vec<String>| {
        let setup = Setup::new();
        let file = keep(&setup, word, permissions);
        let options = secret(path(&file));
        let options: Vec<&str> = ["--sandbox", mode].into_iter().chain(options.iter().map(String::as_str)).collect();
        let (code, log) = setup.args(&options).run_to_end();
        assert!(matches!(code, Some(1 | 2)), "{options:?}: {code:?} {log}");
        assert!(!log.contains(TREASURE), "{log}");
        log
    };
    let one = |text: String| vec!["--secret".to_owned(), text];
    let good = |file: &str| one(format!("A=file:{file}@host.test"));
    for (mode, permissions, word, expected) in [
        ("workspace", 0o644, TREASURE, "all users may read"),
        ("workspace", 0o600, "", "holds no secret"),
        ("workspace", 0o600, "two words", "holds no secret"),
        ("strict", 0o600, TREASURE, "add --sandbox workspace"),
    ] {
        let log = refused(mode, permissions, word, &good);
        assert!(log.contains(expected), "{expected}: {log}");
    }
    let within = |file: &str| {
        let above = PathBuf::from(file).parent().expect("a parent").to_owned();
        [vec!["--allow-read".to_owned(), path(&above).to_owned()], good(file)].concat()
    };
    let log = refused("workspace", 0o600, TREASURE, &within);
    assert!(log.contains("sessions may read"), "{log}");
    // Owners' sessions read their own workspaces.
    let place = tempfile::tempdir().expect("a directory");
    let tokens = place.path().join("tokens.toml");
    std::fs::write(&tokens, format!("[[token]]\nowner = \"a\"\nsha256 = \"{}\"\n", "0".repeat(64))).expect("written");
    std::fs::set_permissions(&tokens, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    let owned = |file: &str| {
        let above = PathBuf::from(file).parent().expect("a parent").to_owned();
        let options = ["--transport", "http", "--port", "0", "--tokens", path(&tokens), "--workspaces", path(&above)];
        [options.map(str::to_owned).to_vec(), good(file)].concat()
    };
    let log = refused("workspace", 0o600, TREASURE, &owned);
    assert!(log.contains("sessions may read"), "{log}");
    let twice = |file: &str| [good(file), good(file)].concat();
    assert!(refused("workspace", 0o600, TREASURE, &twice).contains("is there twice"));
    for (text, expected) in [
        ("A=file:/no/such/file@host.test", "No such file"),
        ("A=the-word@host.test", "file:PATH@HOST"),
        ("A=file:/x", "a host is missing"),
        ("A=file:/x@https://host.test", "is no"),
        ("A B=file:/x@host.test", "no name of a variable"),
        ("A=file:/x@host.test:0", "is no port"),
    ] {
        let log = refused("workspace", 0o600, TREASURE, &|_| one(text.to_owned()));
        assert!(log.contains(expected), "{text}: {log}");
    }
}
