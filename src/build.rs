//! Build script. Owns what only the build knows: where libpython lies (as an rpath, so that the binary starts without
//! LD_LIBRARY_PATH), which interpreter it was found through (the base of managed environments), and the list of the
//! Python files to embed, as text and compiled, and of the wheels that fit the target. pyo3 itself chooses the interpreter; `PYO3_PYTHON` names another.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = "python/forkpy_worker";
const WHEELS: &str = "wheels";

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system != "linux" {
        println!("cargo::error={}", elsewhere(&system));
        return;
    }
    println!("cargo:rerun-if-changed={PACKAGE}");
    println!("cargo:rerun-if-changed={WHEELS}");
    println!("cargo:rerun-if-env-changed=FORKPY_WITHOUT_WHEELS");
    pyo3_build_config::use_pyo3_cfgs();
    let config = pyo3_build_config::get();
    let version = config.version();
    assert!(
        (version.major, version.minor) >= (3, 10),
        "forkpy needs CPython 3.10 or newer, PYO3_PYTHON points at {}.{}",
        version.major,
        version.minor
    );
    match (config.shared(), config.lib_dir()) {
        (true, Some(directory)) => println!("cargo:rustc-link-arg=-Wl,-rpath,{directory}"),
        (false, Some(directory)) => link_static(directory, config.lib_name().unwrap_or("python3")),
        (_, None) => {}
    }
    println!("cargo:rustc-env=FORKPY_BUILD_PYTHON={}", config.executable().unwrap_or("python3"));
    println!("cargo:rustc-env=FORKPY_PYTHON_VERSION={}.{}", version.major, version.minor);
    list_sources(config.executable().unwrap_or("python3"));
    name_modules();
    list_wheels();
}

/// What a build for another system is told.
fn elsewhere(system: &str) -> String {
    let way = match system {
        "macos" => {
            "on macOS run it in a container (docker run -i ghcr.io/forkpy/forkpy), or on a server (forkpy --transport http)"
        }
        "windows" => {
            "on Windows install it in WSL 2 (client entry: wsl forkpy), or run it in a container or on a server"
        }
        _ => "run it in a Linux container, or on a server (forkpy --transport http)",
    };
    format!("forkpy runs on Linux only: {way}; src/guide/clients.md has the entries for clients")
}

/// libpython is in the binary, all of it: extension modules find its symbols there, also those that nothing here uses.
/// Their libraries they find in the bundle, by a plain RPATH, which counts for what is loaded later too; a RUNPATH does not.
fn link_static(directory: &str, library: &str) {
    // An argument each: zig's compiler takes those that stand in one for something else.
    for argument in ["-Wl,--whole-archive", &format!("{directory}/lib{library}.a"), "-Wl,--no-whole-archive"] {
        println!("cargo:rustc-link-arg-bin=forkpy={argument}");
    }
    // What modules need that are part of it, in a bundle for old systems.
    println!("cargo:rerun-if-env-changed=FORKPY_LINK_MORE");
    for archive in env::split_paths(&env::var_os("FORKPY_LINK_MORE").unwrap_or_default()) {
        println!("cargo:rustc-link-arg-bin=forkpy={}", archive.display());
    }
    for library in ["m", "dl", "util", "pthread"] {
        println!("cargo:rustc-link-arg-bin=forkpy=-l{library}");
    }
    println!("cargo:rustc-link-arg-bin=forkpy=-Wl,--export-dynamic");
    println!("cargo:rustc-link-arg-bin=forkpy=-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib");
}

/// Compiles each file as an import would, and writes down which Pythons can read that, and how the names of
/// this one's extension modules end.
const COMPILE: &str = "\
import importlib.machinery, importlib.util, marshal, pathlib, sys
folder, out, package = map(pathlib.Path, sys.argv[1:4])
for file in sorted(folder.rglob('*.py')):
    name = file.relative_to(folder)
    code = compile(file.read_text('utf-8'), f'<{package}>/{name}', 'exec', 0, True)
    (out / name).parent.mkdir(exist_ok=True)
    (out / f'{name}.code').write_bytes(marshal.dumps(code))
(out / 'magic').write_bytes(importlib.util.MAGIC_NUMBER)
(out / 'suffix').write_text(importlib.machinery.EXTENSION_SUFFIXES[0])";

/// Writes `sources.rs`: an array of (file, text, marshalled code) of the package, beside it `magic`. The file is told as
/// below the package's folder, with `/` between the names.
fn list_sources(python: &str) {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let folder = Path::new(&root).join(PACKAGE);
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let package = folder.file_name().expect("a folder has a name");
    let compiled = Command::new(python)
        .args(["-I", "-S", "-c", COMPILE])
        .args([folder.as_os_str(), out.as_os_str(), package])
        .status();
    assert!(
        compiled.as_ref().is_ok_and(|status| status.success()),
        "{python} could not compile the Python package: {compiled:?}"
    );
    let mut names = Vec::new();
    python_files(&folder, "", &mut names);
    names.sort();
    let mut text = String::from("&[\n");
    for name in names {
        let (path, code) = (folder.join(&name), out.join(format!("{name}.code")));
        writeln!(text, "    ({name:?}, include_str!({path:?}), include_bytes!({code:?})),")
            .expect("writing to a string");
    }
    text.push_str("]\n");
    fs::write(out.join("sources.rs"), text).expect("the build folder is writable");
}

/// For another machine the interpreter that was asked is of this one: its modules have another machine's name.
fn name_modules() {
    let (host, target) = (env::var("HOST").expect("cargo sets it"), env::var("TARGET").expect("cargo sets it"));
    let machine = |triple: &str| triple.split('-').next().unwrap_or_default().to_owned();
    let path = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("suffix");
    let suffix = fs::read_to_string(&path).expect("it was written");
    fs::write(&path, suffix.replace(&format!("-{}-", machine(&host)), &format!("-{}-", machine(&target))))
        .expect("the build folder is writable");
}

/// Finds the Python files of a folder and of the folders in it.
fn python_files(folder: &Path, below: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the Python package is part of the sources") {
        let entry = entry.expect("the folder is readable");
        let name = entry.file_name().into_string().expect("Python modules have names in UTF-8");
        let path = entry.path();
        if path.is_dir() {
            python_files(&path, &format!("{below}{name}/"), names);
        } else if path.extension().is_some_and(|extension| extension == "py") {
            names.push(format!("{below}{name}"));
        }
    }
}

/// Writes `wheels.rs`: an array of (file name, content) of the wheels that sessions are promised. A bundle has them unpacked
/// beside it already, and says so by `FORKPY_WITHOUT_WHEELS`.
fn list_wheels() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let machine = format!("_{}.whl", target("ARCH"));
    let fits = |name: &str| {
        name.ends_with("-none-any.whl")
            || (target("ENV") == "gnu" && name.contains("-manylinux") && name.ends_with(&machine))
    };
    let mut names: Vec<String> = Vec::new();
    if env::var_os("FORKPY_WITHOUT_WHEELS").is_none() {
        let entries = fs::read_dir(Path::new(&root).join(WHEELS)).expect("the wheels are part of the sources");
        names.extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
        names.retain(|name| fits(name));
        names.sort();
    }
    let mut text = String::from("&[\n");
    for name in names {
        let path = Path::new(&root).join(WHEELS).join(&name);
        writeln!(text, "    Wheel {{ file: {name:?}, content: include_bytes!({path:?}) }},")
            .expect("writing to a string");
    }
    text.push_str("]\n");
    fs::write(out.join("wheels.rs"), text).expect("the build folder is writable");
}
