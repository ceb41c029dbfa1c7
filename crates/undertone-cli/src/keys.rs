//! `undertone keys`: stored secret keys, each sealed under a passphrase, and certificates for TLS.

use crate::certificate;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key_file::passphrase;
use crate::route::RouteName;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use undertone_client::{KeyEntry, KeyStore};

/// Flags of `undertone keys`.
#[derive(Debug, Args)]
#[command(after_help = "Keys live in the user's configuration folder, readable by their owner only. Without a stored
key every run makes a fresh one, which is the better choice unless the key itself must be kept.

Examples:
  undertone keys new clinic --passphrase-file pass.txt
  undertone keys new clinic-long --route turns --passphrase-file pass.txt
  undertone keys list --json
  undertone keys revoke clinic
  undertone keys certificate --out tls --name server")]
pub struct KeysArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Draw a key and store it
    New {
        /// Name of the key
        name: String,
        /// File with the passphrase, or - for standard input
        #[arg(long, value_name = "FILE|-")]
        passphrase_file: Option<PathBuf>,
        /// How layers run in sessions under this key: a key serves one parameter set
        #[arg(long, value_enum, value_name = "ROUTE", default_value_t = RouteName::Slots)]
        route: RouteName,
    },
    /// List the stored keys
    List,
    /// Show one key, without opening it
    Show {
        /// Name of the key
        name: String,
    },
    /// Always refused in this release: nothing is sent or stored
    ///
    /// Evaluation keys travel with each session, so there is nothing to push ahead of one. The verb checks that the key
    /// exists, says so, and ends with exit code 2.
    Push {
        /// Name of the key
        name: String,
    },
    /// Make a certificate for TLS and its private key, and print its pin for the other side
    Certificate {
        /// Folder for NAME.crt and NAME.key
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Name of the files, noted in the certificate for people; nothing checks it
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Print the pin of a certificate
    Pin {
        /// Certificate in PEM form
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// Delete a key; what was encrypted under it can never be opened again
    Revoke {
        /// Name of the key
        name: String,
    },
}

/// Runs the verb.
///
/// # Errors
/// What the key store refuses.
pub fn run(arguments: &KeysArguments, context: &Context) -> Result<()> {
    match &arguments.what {
        What::Certificate { out, name } => certificate::make(name, out, context),
        What::Pin { file } => certificate::pin(file, context),
        stored => of_store(stored, &KeyStore::of_user()?, context),
    }
}

fn of_store(what: &What, store: &KeyStore, context: &Context) -> Result<()> {
    match what {
        What::New { name, passphrase_file, route } => {
            let passphrase = passphrase(passphrase_file.as_ref())?;
            store.create(name, &route.preset(), passphrase.as_bytes())?;
            let entry = store.show(name)?;
            context.result(&object(&entry), || line(&entry));
        }
        What::List => {
            for entry in store.list()? {
                context.result(&object(&entry), || line(&entry));
            }
        }
        What::Show { name } => {
            let entry = store.show(name)?;
            context.result(&object(&entry), || line(&entry));
        }
        What::Push { name } => {
            store.show(name)?;
            let sentence = "keys push is not part of this release: evaluation keys travel with each session";
            return Err(Error::Usage(sentence.into()));
        }
        // Certificates are ordinary files, not part of the store.
        What::Certificate { .. } | What::Pin { .. } => {}
        What::Revoke { name } => {
            store.remove(name)?;
            context.result(&json!({ "name": name, "revoked": true }), || format!("{name} is deleted"));
        }
    }
    Ok(())
}

fn seconds(entry: &KeyEntry) -> Option<u64> {
    let since = entry.modified?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn object(entry: &KeyEntry) -> Value {
    json!({
        "name": entry.name,
        "file": entry.path.display().to_string(),
        "size_bytes": entry.size_bytes,
        "modified_unix_seconds": seconds(entry),
    })
}

fn line(entry: &KeyEntry) -> String {
    format!("{:<24} {:>8} bytes  {}", entry.name, entry.size_bytes, entry.path.display())
}
