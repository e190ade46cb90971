//! `forkpy token new OWNER`: makes a token for an owner, and prints it this once.
//!
//! Runs in: a process of its own. Standard output has the token and nothing else, for `forkpy token new me > file`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use crate::settings::{
    paths::path,
    tokens::{New, TokensError},
};

/// Tokens of owners.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token for an owner: it is printed once, its hash goes into the file
    New {
        /// Whose it is
        owner: String,
        /// The file of `--tokens`, to which its entry is added; without one the entry is printed to standard error
        #[arg(long, value_name = "FILE", env = "FORKPY_TOKENS", value_parser = path)]
        tokens: Option<PathBuf>,
    },
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error("the token could not be printed: {0}; take its entry out of the file and make another")]
    Output(#[from] io::Error),
}

/// Does it.
///
/// # Errors
/// [`TokenError`], in words for the person who typed the command.
pub(crate) fn token(args: &TokenArgs, out: &mut impl Write) -> Result<(), TokenError> {
    let What::New { owner, tokens } = &args.what;
    let new = New::of(owner)?;
    let told = match tokens {
        Some(path) => {
            new.add_to(path, owner)?;
            format!("the token of {owner:?} is printed this once; {} has its hash", path.display())
        }
        None => {
            let entry = new.entry.trim_end();
            format!("the token of {owner:?} is printed this once; its entry in the file of --tokens:\n{entry}")
        }
    };
    let _ = writeln!(io::stderr(), "{told}");
    Ok(writeln!(out, "{}", new.token)?)
}
