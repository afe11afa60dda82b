//! A server of the engine as a child process, for benches that measure gRPC on one machine.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Deserializer, Value};

use crate::{Error, Result};

/// A running `spandrel serve`. It is killed when this is dropped; what it acknowledged is in its folder.
pub struct Server {
    child: Child,
    url: String,
    /// Held, so that the server can go on writing.
    _output: Option<ChildStdout>,
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
        command.args(["--log-level", "error", "--data"]).arg(dir.join("data"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // Default settings, whatever this process was told.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("SPANDREL_")) {
                command.env_remove(name);
            }
        }
        let name = binary.display();
        let child = command.spawn().map_err(|error| -> Error {
            format!("cannot start {name}: {error}; build it (cargo build --bins) or name it with --server")
                .into()
        })?;
        let mut server = Self { child, url: String::new(), _output: None };
        let mut output = server.child.stdout.take().ok_or("the server has no stdout")?;
        // It says where it listens in one JSON object, once it does.
        let said: Option<Value> =
            Deserializer::from_reader(&mut output).into_iter().next().and_then(Result::ok);
        let address = said.as_ref().and_then(|said| said["listen"].as_str());
        let address = address.ok_or_else(|| format!("{name} serve did not start; its message is above"))?;
        server.url = format!("http://{address}");
        server._output = Some(output);
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
