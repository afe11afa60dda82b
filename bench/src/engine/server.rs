//! A server of the engine as a child process, for benches that measure gRPC on one machine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{Error, Result};

/// A running `spandrel serve`. It is killed when this is dropped; what it acknowledged is in its folder.
pub struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts `binary` on a free port of the loopback address, with its data in `dir` and default settings,
    /// and waits until it listens.
    ///
    /// # Errors
    /// The binary is not there, or the server does not start; its own message is on stderr.
    pub fn start(binary: &Path, dir: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]);
        command.args(["--log-level", "warn", "--data"]).arg(dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let name = binary.display();
        let child = command.spawn().map_err(|error| -> Error {
            format!("cannot start {name}: {error}; build it (cargo build --bins) or name it with --server")
                .into()
        })?;
        let mut server = Self { child, url: String::new() };
        let output = server.child.stdout.take().ok_or("the server has no stdout")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let address =
            said["listen"].as_str().ok_or_else(|| format!("{name} serve did not start: '{line}'"))?;
        server.url = format!("http://{address}");
        Ok(server)
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The server binary that was built beside this program.
    ///
    /// # Errors
    /// The folder of this program is not known.
    pub fn beside_this() -> Result<PathBuf> {
        let this = std::env::current_exe()?;
        Ok(this.with_file_name(format!("spandrel{}", std::env::consts::EXE_SUFFIX)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
