//! Where the lines go that a command writes: standard output, or a file, which has its name when it is whole.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::CliError;

/// Takes lines.
pub(super) struct Out {
    /// What it is, for messages.
    name: String,
    writer: BufWriter<Box<dyn Write>>,
    /// Where a file is written, and where it belongs.
    place: Option<(PathBuf, PathBuf)>,
    /// The file, to be made durable.
    file: Option<File>,
    /// The reader went away, as `head` does.
    is_closed: bool,
}

impl Out {
    /// A file that `flag` names, or standard output.
    pub(super) fn open(flag: &str, path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else {
            let (name, writer) = ("standard output".to_owned(), Box::new(std::io::stdout().lock()));
            return Ok(Self {
                name,
                writer: BufWriter::new(writer),
                place: None,
                file: None,
                is_closed: false,
            });
        };
        // A pipe or a device is written to as it is.
        let is_file = path.metadata().map_or(true, |there| there.is_file());
        let mut part = path.to_path_buf().into_os_string();
        part.push(".part");
        let place = is_file.then(|| (PathBuf::from(part), path.to_path_buf()));
        let at = place.as_ref().map_or(path, |(part, _)| part);
        let failed = |error| CliError::usage(format!("{flag} {}: {error}", path.display()));
        let file = File::create(at).map_err(failed)?;
        let kept = place.is_some().then(|| file.try_clone()).transpose().map_err(failed)?;
        let writer = BufWriter::new(Box::new(file) as Box<dyn Write>);
        Ok(Self { name: at.display().to_string(), writer, place, file: kept, is_closed: false })
    }

    fn done<T>(&mut self, result: std::io::Result<T>) -> Result<(), CliError> {
        match result {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.is_closed = true,
            Err(error) => return Err(CliError::failed(format!("{}: {error}", self.name))),
            Ok(_) => {}
        }
        Ok(())
    }

    /// Whether the reader went away.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The file that is not whole yet.
    pub(super) fn part(&self) -> Option<&Path> {
        self.place.as_ref().map(|(part, _)| &**part)
    }

    /// Writes a line as it is, with an end where it has none.
    pub(super) fn write_line(&mut self, line: &[u8]) -> Result<(), CliError> {
        let end: &[u8] = if line.ends_with(b"\n") { b"" } else { b"\n" };
        let written = self.writer.write_all(line).and_then(|()| self.writer.write_all(end));
        self.done(written)
    }

    /// Writes a line of JSON.
    pub(super) fn write_json(&mut self, line: &impl Serialize) -> Result<(), CliError> {
        let written = serde_json::to_writer(&mut self.writer, line).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.writer.write_all(b"\n"));
        self.done(written)
    }

    /// Everything is written: a file is durable, then gets its name, durably too.
    pub(super) fn finish(&mut self) -> Result<(), CliError> {
        let flushed = self.writer.flush();
        self.done(flushed)?;
        let named = self.publish();
        self.done(named)
    }

    fn publish(&self) -> std::io::Result<()> {
        let (Some((part, path)), Some(file)) = (&self.place, &self.file) else { return Ok(()) };
        file.sync_all()?;
        fs::rename(part, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}
