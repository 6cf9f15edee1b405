//! The memory of a running workspace: what the next daemon must know and no disk may hold.
//!
//! A file in memory that the supervisor keeps open and every daemon appends to. A record is its length (u32), its
//! CRC-32, its bytes; a daemon that is killed within an append leaves a torn record, which ends the file for readers
//! and is overwritten by the next append.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Bytes before each record.
const HEADER: usize = 8;

/// The memory file of one workspace.
#[derive(Debug)]
pub struct Memory {
    file: File,
    end: Mutex<u64>,
}

impl Memory {
    /// Reads everything that earlier daemons wrote, oldest first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open<T: DeserializeOwned>(file: OwnedFd) -> io::Result<(Self, Vec<T>)> {
        let file = File::from(file);
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = Zeroizing::new(vec![0_u8; length]);
        file.read_exact_at(&mut bytes, 0)?;
        let (mut records, mut end) = (Vec::new(), 0);
        while let Some((record, length)) = decode(&bytes[end..]) {
            records.push(record);
            end += length;
        }
        Ok((Self { file, end: Mutex::new(end as u64) }, records))
    }

    /// Adds a record; when this returns, the next daemon will find it.
    ///
    /// # Errors
    /// `ENOSPC` if the machine is out of memory.
    pub fn append(&self, record: &impl Serialize) -> io::Result<()> {
        let body = Zeroizing::new(postcard::to_stdvec(record).map_err(io::Error::other)?);
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER + body.len()));
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(&bytes, *end)?;
        *end += bytes.len() as u64;
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let end = HEADER.checked_add(usize::try_from(number(0)?).ok()?)?;
    let body = bytes.get(HEADER..end)?;
    let sound = !body.is_empty() && crc32fast::hash(body) == number(4)?;
    sound.then(|| postcard::from_bytes(body).ok().map(|record| (record, end)))?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::Memory;

    #[test]
    fn a_successor_finds_every_record_and_overwrites_a_torn_one() {
        let file = tempfile::tempfile().expect("file");
        let handle = || file.try_clone().expect("clone").into();
        let (memory, before) = Memory::open::<String>(handle()).expect("open");
        assert!(before.is_empty());
        memory.append(&"one").expect("append");
        memory.append(&"two").expect("append");
        let end = file.metadata().expect("size").len();
        file.write_all_at(&[9, 0, 0, 0, 1, 2], end).expect("tear");
        let (memory, found) = Memory::open::<String>(handle()).expect("reopen");
        assert_eq!(found, ["one", "two"]);
        memory.append(&"three").expect("append");
        let (_, found) = Memory::open::<String>(handle()).expect("reopen");
        assert_eq!(found, ["one", "two", "three"]);
    }
}
