//! How fast this machine serves batch reads and section reads, by implementation, read size and batch size.
//!
//! `cargo run --profile bench -p spandrel-storage --example read_rate -- [FOLDER] [MB]` writes a file of MB
//! megabytes (default 1024) in a temp folder under FOLDER (default: the system's), reads random extents of it
//! for a second per line, then whole sections, and prints IOPS and MB/s. `pread` goes through the page cache:
//! after the warm-up its figures are those of memory, the others those of the device.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spandrel_storage::io::{BatchRead, Extent, Pread, ReadFile, probe};
use spandrel_storage::{Result, Section, SegmentFile, SegmentWriter};

const MEASURE: Duration = Duration::from_secs(1);
const SECTION: &str = "data";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().map_or_else(std::env::temp_dir, Into::into);
    let megabytes: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(1024).max(1);
    let folder = tempfile::tempdir_in(&parent)
        .map_err(|source| spandrel_storage::Error::io("create a temp folder in", &parent, source))?;
    let path = folder.path().join("rate.seg");
    write(&path, megabytes)?;
    let readers: [Arc<dyn BatchRead>; 3] = [probe(), Arc::new(Pread::direct()), Arc::new(Pread::buffered())];
    checksum_rate();
    println!("{:<14}{:>8}{:>8}{:>12}{:>10}{:>12}", "reader", "bytes", "batch", "IOPS", "MB/s", "us/batch");
    for reader in &readers {
        let file = ReadFile::open(&path)?;
        if reader.name() == "pread" {
            warm(&path, reader)?;
        }
        for len in [4096, 16 * 1024, 64 * 1024] {
            for batch in [1, 32, 128] {
                random_reads(&**reader, &file, len, batch)?;
            }
        }
    }
    println!("\n{:<14}{:>24}{:>10}", "reader", "section read", "MB/s");
    for reader in &readers {
        let section = SegmentFile::open(&path, Arc::clone(reader))?;
        let section = section.require(SECTION)?;
        whole("read_all", reader, &section, || section.read_all().map(|bytes| bytes.len()))?;
        whole("read_f32s", reader, &section, || section.read_f32s().map(|values| values.len() * 4))?;
        let mut bytes = vec![0u8; section.len() as usize];
        whole("read_into, reused", reader, &section, || {
            section.read_into(0, &mut bytes).map(|()| bytes.len())
        })?;
        whole("verify", reader, &section, || section.verify().map(|()| section.len() as usize))?;
    }
    Ok(())
}

fn write(path: &Path, megabytes: usize) -> Result<()> {
    let values: Vec<u64> = (0..1u64 << 17).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let start = Instant::now();
    let mut writer = SegmentWriter::create(path, 1, *b"RATE")?;
    writer.section(SECTION)?;
    for _ in 0..megabytes {
        writer.write_values(&values)?;
    }
    let written = start.elapsed();
    writer.finish()?;
    println!(
        "wrote {megabytes} MB in {:.2} s, durable after {:.2} s",
        written.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn warm(path: &Path, reader: &Arc<dyn BatchRead>) -> Result<()> {
    SegmentFile::open(path, Arc::clone(reader))?.verify()
}

/// crc32c of single pages that are in the cache.
fn checksum_rate() {
    let pages = vec![7u8; 256 * 1024];
    let start = Instant::now();
    let (mut count, mut sum) = (0u64, 0);
    while start.elapsed() < MEASURE {
        for page in pages.chunks(4096) {
            sum ^= crc32c::crc32c(page);
            count += 4096;
        }
    }
    println!("crc32c of pages: {:.0} MB/s ({sum})\n", rate(count as usize, start));
}

fn random_reads(reader: &dyn BatchRead, file: &ReadFile, len: usize, batch: usize) -> Result<()> {
    let mut state = 0x5eed_u64;
    let blocks = file.len() / len as u64;
    let (start, mut batches) = (Instant::now(), 0usize);
    while start.elapsed() < MEASURE {
        let extents: Vec<Extent> = (0..batch)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Extent { offset: (state >> 20) % blocks * len as u64, len }
            })
            .collect();
        reader.read(file, &extents, &mut |_, bytes| {
            std::hint::black_box(bytes);
            Ok(())
        })?;
        batches += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:<14}{len:>8}{batch:>8}{:>12.0}{:>10.0}{:>12.1}",
        reader.name(),
        (batches * batch) as f64 / seconds,
        rate(batches * batch * len, start),
        seconds / batches as f64 * 1e6
    );
    Ok(())
}

fn whole(
    what: &str,
    reader: &Arc<dyn BatchRead>,
    section: &Section,
    mut read: impl FnMut() -> Result<usize>,
) -> Result<()> {
    // The best of three: the first pays for the memory.
    let mut best = 0.0f64;
    for _ in 0..3 {
        let start = Instant::now();
        let bytes = read()?;
        assert_eq!(bytes as u64, section.len());
        best = best.max(rate(bytes, start));
    }
    println!("{:<14}{what:>24}{best:>10.0}", reader.name());
    Ok(())
}

fn rate(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}
