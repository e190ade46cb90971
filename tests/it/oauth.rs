//! Owners by an issuer's access tokens (`--oauth-issuer`): which token lets whom in, what it is for, and an issuer that exchanges
//! its keys or is gone.

use serde_json::{Value, json};

use crate::support::{
    Setup,
    browser::request,
    http::{Answer, HttpForkpy},
    issuer::{AUDIENCE, AUTHORITY, Issuer, Signer, message, now, with_secret},
    wait_for,
};

const ALL: &str = "cells:run files:read files:write admin";

fn server(issuer: &Issuer, setup: Setup) -> HttpForkpy {
    HttpForkpy::start(setup.args(&["--oauth-issuer", &issuer.url, "--oauth-audience", AUDIENCE]))
}

/// An issuer that publishes a key of each kind, and a server that trusts it.
fn begun() -> (Issuer, [Signer; 3], HttpForkpy) {
    let issuer = Issuer::start(false);
    let signers = [Signer::rsa("r"), Signer::curve("c"), Signer::edwards("e")];
    issuer.publish(&signers.each_ref());
    let server = server(&issuer, Setup::new());
    (issuer, signers, server)
}

fn ask(server: &HttpForkpy, token: &str, method: &str, name: Option<&str>, params: Value) -> Answer {
    request(server, &[("Authorization", &format!("Bearer {token}"))], method, name, params)
}

fn call(server: &HttpForkpy, token: &str, tool: &str, arguments: Value) -> Answer {
    ask(server, token, "tools/call", Some(tool), json!({"name": tool, "arguments": arguments}))
}

fn run(server: &HttpForkpy, token: &str, code: &str) -> Value {
    let answer = call(server, token, "run_python_code", json!({"code": code}));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["result"]["structuredContent"]["results"].clone()
}

fn get(server: &HttpForkpy, token: &str, path: &str) -> Answer {
    server.get_with(path, &[("Authorization", &format!("Bearer {token}"))])
}

/// The claims, with one of them set, or taken out.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    if value.is_null() {
        claims.as_object_mut().expect("an object").remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

#[test]
fn a_client_without_a_token_learns_where_to_get_one() {
    let (issuer, _, server) = begun();
    let refused = request(&server, &[], "tools/list", None, json!({}));
    assert_eq!(refused.status, 401, "{refused:?}");
    let address = "http://127.0.0.1:1/.well-known/oauth-protected-resource/mcp";
    let challenge = refused.header("WWW-Authenticate");
    assert!(challenge.starts_with("Bearer ") && !challenge.contains("error"), "{challenge}");
    assert!(challenge.contains(&format!("resource_metadata=\"{address}\"")), "{challenge}");
    assert!(challenge.contains("scope=\"cells:run files:read files:write\""), "{challenge}");
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let told = server.get(path);
        assert_eq!((told.status, told.header("Content-Type")), (200, "application/json"), "{path}: {told:?}");
        let told = told.json();
        assert_eq!((&told["resource"], &told["authorization_servers"]), (&json!(AUDIENCE), &json!([issuer.url])));
        assert_eq!(told["scopes_supported"], json!(ALL.split(' ').collect::<Vec<_>>()));
    }
    assert_eq!(server.get("/.well-known/oauth-protected-resource/files").status, 404);
    assert_eq!(HttpForkpy::start(Setup::new()).get("/.well-known/oauth-protected-resource").status, 404);
}

#[test]
fn each_subject_of_the_issuer_has_sessions_of_its_own() {
    let (issuer, [rsa, curve, edwards], server) = begun();
    let ann = issuer.token(&rsa, "auth0|ann", "cells:run");
    assert_eq!(run(&server, &ann, "x = 'of ann'; x"), json!(["'of ann'"]));
    let again = issuer.token(&curve, "auth0|ann", "openid cells:run");
    assert_eq!(run(&server, &again, "x"), json!(["'of ann'"]), "another token of the same subject");
    let bob = issuer.token(&edwards, "bob/../é", "cells:run");
    assert_eq!(run(&server, &bob, "'x' in globals()"), json!(["False"]));
    // What issuers write otherwise, and clocks that are a little apart.
    let claims = issuer.claims("auth0|ann", "cells:run");
    for (name, value) in [
        ("aud", json!(["other", AUDIENCE])),
        ("exp", json!(now() - 30)),
        ("exp", json!(1e12)),
        ("exp", json!(now() as f64 + 600.5)),
        ("nbf", json!(now() + 30)),
        ("iat", json!(now() + 30)),
        ("iat", Value::Null),
        ("scope", json!(["cells:run", "email"])),
    ] {
        let token = rsa.sign(&with(claims.clone(), name, value.clone()));
        assert_eq!(run(&server, &token, "x"), json!(["'of ann'"]), "{name} {value}");
    }
    let by_scp = with(with(claims.clone(), "scope", Value::Null), "scp", json!("files:read cells:run"));
    for header in [
        json!({"alg": "RS256"}),
        json!({"alg": "RS256", "kid": "r", "typ": "JWT"}),
        json!({"alg": "PS512", "kid": "r", "typ": "application/at+jwt"}),
    ] {
        assert_eq!(run(&server, &rsa.sign_as(&header, &by_scp), "x"), json!(["'of ann'"]), "{header}");
    }
}

#[test]
fn a_token_that_is_not_good_is_refused_with_the_reason() {
    let (issuer, [rsa, curve, edwards], server) = begun();
    let claims = issuer.claims("ann", ALL);
    let mut cases =
        vec![("nonsense".to_owned(), "no JWT"), (String::new(), "bearer token"), ("a.b.c".to_owned(), "no JWT")];
    for (name, value, expected) in [
        ("exp", json!(now() - 3600), "expired 36"),
        ("exp", Value::Null, "lacks 'exp'"),
        ("exp", json!("soon"), "its claims are not"),
        ("nbf", json!(now() + 3600), "the issuer's clock and this machine's are apart"),
        ("iat", json!(now() + 3600), "the issuer's clock and this machine's are apart"),
        ("iss", json!("https://other.example"), "not of the issuer"),
        ("iss", json!(format!("{}/", issuer.url)), "not of the issuer"),
        ("iss", Value::Null, "lacks 'iss'"),
        ("aud", json!("http://127.0.0.1:1"), "another audience"),
        ("aud", json!([]), "another audience"),
        ("aud", Value::Null, "lacks 'aud'"),
        ("sub", Value::Null, "lacks 'sub'"),
        ("sub", json!(""), "lacks 'sub'"),
        ("sub", json!("a\nb"), "lacks 'sub'"),
        ("sub", json!("a".repeat(256)), "lacks 'sub'"),
        ("cnf", json!({"jkt": "a"}), "bound to a key"),
    ] {
        cases.push((rsa.sign(&with(claims.clone(), name, value)), expected));
    }
    let unsigned = |name: &str| format!("{}.", message(&json!({"alg": name}), &claims));
    cases.extend(["none", "None", "nOnE", ""].map(|name| (unsigned(name), "is signed by")));
    let modulus = rsa.public()["n"].as_str().expect("a number").to_owned();
    for secret in [modulus.as_bytes(), rsa.public().to_string().as_bytes(), b""] {
        cases.push((with_secret(secret, &json!({"alg": "HS256", "kid": "r"}), &claims), "is signed by 'HS256'"));
    }
    // A key used as another one is, and one that only seems to be the issuer's.
    let (strange, good) = (Signer::curve("c"), rsa.sign(&claims));
    let of = |signer: &Signer, header: Value| signer.sign_as(&header, &claims);
    cases.extend([
        (of(&rsa, json!({"alg": "ES256", "kid": "c"})), "signature is wrong"),
        (of(&curve, json!({"alg": "RS256", "kid": "r"})), "signature is wrong"),
        (of(&curve, json!({"alg": "ES256", "kid": "r"})), "key that its issuer does not publish"),
        (of(&curve, json!({"alg": "ES384", "kid": "c"})), "key that its issuer does not publish"),
        (of(&strange, json!({"alg": "ES256", "kid": "c", "jwk": strange.public()})), "signature is wrong"),
        (of(&strange, json!({"alg": "ES256", "kid": "z", "jku": issuer.url})), "key that its issuer does not publish"),
        (of(&edwards, json!({"alg": "EdDSA", "typ": "logout+jwt"})), "not an access token"),
        (of(&rsa, json!({"alg": "RS256", "crit": ["x"], "x": 1})), "extensions"),
        (format!("{good}A"), "signature is wrong"),
        (good.replacen('.', ".e", 1), "signature is wrong"),
        (format!("{good}.{good}"), "no JWT"),
    ]);
    for (token, expected) in cases {
        let refused = call(&server, &token, "ping", json!({}));
        let (challenge, words) = (refused.header("WWW-Authenticate"), refused.body.replace("\\\"", "'"));
        assert_eq!(refused.status, 401, "{token}: {refused:?}");
        assert!(words.contains(expected), "{token}: {expected}: {words}");
        assert!(expected == "bearer token" || challenge.contains("error=\"invalid_token\""), "{challenge}");
        assert!(challenge.contains("resource_metadata=\"http"), "{challenge}");
    }
    assert_eq!(call(&server, &good, "ping", json!({})).status, 200);
}

#[test]
fn keys_are_exchanged_and_an_issuer_that_is_down_locks_none_out() {
    let issuer = Issuer::start(false);
    let (old, new, third) = (Signer::rsa("old"), Signer::curve("new"), Signer::curve("third"));
    issuer.publish(&[&old]);
    let server = server(&issuer, Setup::new());
    let ping =
        |signer: &Signer, subject: &str| call(&server, &issuer.token(signer, subject, ""), "ping", json!({})).status;
    assert_eq!(ping(&old, "ann"), 200);
    issuer.publish(&[&new]);
    assert_eq!(ping(&new, "ann"), 200, "a key that is unknown has them asked for");
    assert_eq!(ping(&old, "ann"), 401, "the issuer has taken it back");
    let asked = issuer.asked();
    issuer.publish(&[&new, &third]);
    for subject in ["a", "b", "c"] {
        assert_eq!(ping(&third, subject), 401, "not again so soon");
    }
    assert_eq!(issuer.asked(), asked, "strangers do not make the server ask");
    issuer.down(true);
    assert_eq!(ping(&new, "bob"), 200, "with the keys of before");
    wait_for("a worker", || server.get("/readyz").status == 200);
}

#[test]
fn without_any_keys_a_token_is_refused_for_now_and_others_come_in() {
    let issuer = Issuer::start(true);
    let signer = Signer::rsa("r");
    issuer.publish(&[&signer]);
    let (alone, beside) = (server(&issuer, Setup::new()), server(&issuer, Setup::new().env("FORKPY_TOKEN", "sesame")));
    let token = issuer.token(&signer, "ann", ALL);
    for server in [&alone, &beside] {
        let refused = call(server, &token, "ping", json!({}));
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(
            refused.body.contains("the issuer's keys cannot be had now") && refused.body.contains(&issuer.url[7..20])
        );
        assert!(!refused.header("Retry-After").is_empty());
    }
    assert_eq!(call(&alone, "sesame", "ping", json!({})).status, 401, "no JWT, whoever issued it");
    assert_eq!(call(&beside, "sesame", "ping", json!({})).status, 200);
    wait_for("a worker", || beside.get("/readyz").status == 200);
    let unready = || {
        let told = alone.get("/readyz");
        told.status == 503 && told.body.contains("no token can be checked")
    };
    wait_for("the reason", unready);
    issuer.down(false);
    wait_for("the keys", || call(&alone, &token, "ping", json!({})).status == 200);
    wait_for("to be ready", || alone.get("/readyz").status == 200);
}

/// Each says which it needs, and is content with that.
#[test]
fn each_tool_demands_its_scope() {
    let issuer = Issuer::start(false);
    let signer = Signer::curve("c");
    issuer.publish(&[&signer]);
    let server = server(&issuer, Setup::new().args(&["--tools", "all,get_health_report,dump_stacks"]));
    let bare = issuer.token(&signer, "ann", "openid");
    let listed = ask(&server, &bare, "tools/list", None, json!({})).json();
    let names: Vec<&str> =
        listed["result"]["tools"].as_array().expect("tools").iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert!(names.len() > 35, "{names:?}");
    let mut demanded = std::collections::BTreeMap::<String, Vec<&str>>::new();
    for name in names {
        let refused = call(&server, &bare, name, json!({}));
        if refused.status == 200 {
            demanded.entry(String::new()).or_default().push(name);
            continue;
        }
        let challenge = refused.header("WWW-Authenticate").to_owned();
        assert_eq!(refused.status, 403, "{name}: {refused:?}");
        assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
        let scope = challenge.split("scope=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a scope");
        assert!(refused.body.contains(&format!("needs the scope {scope}")), "{refused:?}");
        let others = ALL.replace(scope, "");
        assert_eq!(call(&server, &issuer.token(&signer, "ann", &others), name, json!({})).status, 403, "{name}");
        // It comes as far as its arguments.
        let odd =
            json!({"session_id": 7, "path": 7, "code": 7, "filename": 7, "packages": 7, "branches": 7, "name": 7});
        let answer = call(&server, &issuer.token(&signer, "ann", scope), name, odd);
        assert!(![401, 403].contains(&answer.status), "{name}: {answer:?}");
        demanded.entry(scope.to_owned()).or_default().push(name);
    }
    assert_eq!(demanded[""], ["ping", "get_workspace_info"]);
    assert_eq!(demanded["files:read"], ["list_files", "read_file"]);
    assert_eq!(demanded["files:write"], ["write_file", "delete_file", "save_script"]);
    assert_eq!(demanded.len(), 4, "{demanded:?}");
}

#[test]
fn resources_and_paths_demand_their_scopes_too() {
    let (issuer, [rsa, ..], server) = begun();
    let of = |scope: &str| issuer.token(&rsa, "ann", scope);
    let (bare, cells, reads, writes, admin) =
        (of(""), of("cells:run"), of("files:read"), of("files:write"), of("admin"));
    std::fs::write(server.workspace().join("a.txt"), "treasure").expect("written");
    let file = format!("file://{}/a.txt", server.workspace().canonicalize().expect("there").display());
    let read = |token: &str, uri: &str| ask(&server, token, "resources/read", Some(uri), json!({"uri": uri})).status;
    assert_eq!([&bare, &cells, &writes, &reads].map(|token| read(token, &file)), [403, 403, 403, 200]);
    assert_eq!([&bare, &reads, &cells].map(|token| read(token, "health://report")), [403, 403, 200]);
    assert_eq!(read(&bare, "forkpy://guide/files"), 200);
    let listed = |token: &str| ask(&server, token, "resources/list", None, json!({})).body;
    wait_for("the file to be listed", || listed(&reads).contains("a.txt"));
    assert!(!listed(&reads).contains("health://") && listed(&cells).contains("health://report"));
    assert!(!listed(&cells).contains("a.txt") && listed(&bare).contains("forkpy://guide"));
    let events = |token: &str| ask(&server, token, "events/list", None, json!({})).status;
    assert_eq!(events(&reads), 403);
    assert_ne!(events(&cells), 403);
    let task = |token: &str| ask(&server, token, "tasks/get", Some("none"), json!({"taskId": "none"})).status;
    assert_eq!(task(&reads), 403);
    assert_ne!(task(&cells), 403);
    let download = "/files/download/a.txt";
    assert_eq!(
        [&bare, &writes, &cells, &reads].map(|token| get(&server, token, download).status),
        [403, 403, 403, 200]
    );
    let form = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"b.txt\"\r\n\r\nb\r\n--x--\r\n";
    let upload = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", &*bearer), ("Content-Type", "multipart/form-data; boundary=x")];
        server.exchange("POST", "/files/upload", &headers, form.as_bytes()).status
    };
    assert_eq!([&bare, &reads, &cells].map(|token| upload(token)), [403, 403, 403]);
    assert!((200..300).contains(&upload(&writes)));
    assert_eq!([&cells, &admin].map(|token| get(&server, token, "/metrics").status), [403, 200]);
    let refused = get(&server, &cells, "/metrics");
    assert!(refused.header("WWW-Authenticate").contains("scope=\"cells:run admin\""), "{refused:?}");
    let drain = |token: &str| {
        server.exchange("POST", "/admin/drain", &[("Authorization", &format!("Bearer {token}"))], b"").status
    };
    assert_eq!((drain(&writes), drain(&admin)), (403, 202));
}

#[test]
fn an_issuer_that_cannot_be_one_is_refused_at_the_start() {
    let start = |args: &[&str]| {
        let (code, log) = Setup::new().args(&["--transport", "http", "--port", "0"]).args(args).run_to_end();
        assert_eq!(code, Some(1), "{log}");
        log
    };
    let (issuer, audience) = (["--oauth-issuer", "https://id.example"], ["--oauth-audience", AUDIENCE]);
    assert!(start(&issuer).contains("--oauth-audience is missing"));
    assert!(start(&audience).contains("--oauth-issuer is missing"));
    let both = [&issuer[..], &audience[..]].concat();
    assert!(start(&[&both[..], &["--share-sessions"]].concat()).contains("take one of them"));
    let open = start(&[&["--oauth-issuer", "http://id.example"][..], &audience].concat());
    assert!(open.contains("http is for this machine alone"), "{open}");
    assert!(start(&[&issuer[..], &["--oauth-audience", "me"]].concat()).contains("no address of the form"));
    let settings = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(settings.path(), "oauth-issuer = \"http://id.example\"\noauth-audience = \"https://a\"\n")
        .expect("written");
    let log = start(&["--config", settings.path().to_str().expect("UTF-8")]);
    assert!(log.contains("http is for this machine alone"), "the settings file knows it: {log}");
}

#[test]
fn keys_come_by_https_from_who_is_trusted_only() {
    let (issuer, signer) = (Issuer::start_secure(), Signer::edwards("e"));
    issuer.publish(&[&signer]);
    let folder = tempfile::tempdir().expect("a directory");
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, AUTHORITY).expect("written");
    let token = issuer.token(&signer, "ann", ALL);
    let trusting = server(&issuer, Setup::new().env("SSL_CERT_FILE", authority.to_str().expect("UTF-8")));
    assert_eq!(run(&trusting, &token, "6 * 7"), json!(["42"]));
    let stranger = server(&issuer, Setup::new());
    let refused = call(&stranger, &token, "run_python_code", json!({"code": "1"}));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("the issuer's keys cannot be had now"), "{refused:?}");
}
