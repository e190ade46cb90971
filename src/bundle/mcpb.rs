//! The `.mcpb` file: a zip of a manifest and the single file, which desktop clients install by a click. After the MCPB
//! manifest's version 0.3.
//!
//! Runs in: `forkpy bundle --mcpb`.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::BundleError;

pub(crate) fn write(single: &Path, target: &Path) -> Result<(), BundleError> {
    let written = File::create(target).and_then(|file| {
        let mut zip = ZipWriter::new(file);
        // The single file is packed already.
        let plain = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("manifest.json", plain.unix_permissions(0o644)).map_err(io::Error::other)?;
        zip.write_all(serde_json::to_string_pretty(&manifest())?.as_bytes())?;
        zip.start_file("server/forkpy", plain.unix_permissions(0o755)).map_err(io::Error::other)?;
        io::copy(&mut File::open(single)?, &mut zip)?;
        zip.finish().map_err(io::Error::other)?.sync_all()
    });
    written.map_err(|error| {
        let _ = fs::remove_file(target);
        BundleError::file("cannot write", target)(error)
    })
}

fn manifest() -> Value {
    json!({
        "manifest_version": "0.3",
        "name": "forkpy",
        "display_name": "forkpy",
        "version": env!("CARGO_PKG_VERSION"),
        "description": env!("CARGO_PKG_DESCRIPTION"),
        "author": {"name": "The forkpy team"},
        "license": env!("CARGO_PKG_LICENSE"),
        "keywords": ["python", "repl", "sessions"],
        "server": {
            "type": "binary",
            "entry_point": "server/forkpy",
            "mcp_config": {
                "command": "${__dirname}/server/forkpy",
                "args": ["--workspace", "${user_config.workspace}"],
                "env": {}
            }
        },
        "tools_generated": true,
        "user_config": {
            "workspace": {
                "type": "directory",
                "title": "Workspace",
                "description": "Directory that sessions work in",
                "required": true,
                "default": "${HOME}/forkpy"
            }
        },
        "compatibility": {"platforms": ["linux"]}
    })
}
