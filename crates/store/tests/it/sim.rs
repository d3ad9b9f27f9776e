//! A disk in memory that loses what was not synced, tears what was being written, fails when told to, and fills up.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::embedded::{Disk, DiskFile};
use store::suite::model::Dice;

/// What happens at the operation that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and does nothing; so does everything until the disk is healed.
    Fail,
    /// A write does its first half and fails; so does everything until the disk is healed.
    Short,
    /// Power goes: of everything since the last sync, some sectors are written and some are not.
    Power,
}

const SECTOR: usize = 512;

#[derive(Debug)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Debug)]
struct Sim {
    files: BTreeMap<String, SimData>,
    /// Bytes that may be written to, in whole sectors.
    capacity: usize,
    /// Writes, resizes and syncs so far.
    operations: usize,
    fault: Option<(usize, Fault)>,
    broken: bool,
}

#[derive(Debug, Default, Clone)]
struct SimData {
    /// What a read sees.
    data: Vec<u8>,
    /// What survives a loss of power for certain.
    safe: Vec<u8>,
    /// Sectors written since the last sync, as they were after each write.
    unsynced: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    /// Sectors ever written; the others are holes that take no space.
    used: BTreeSet<usize>,
}

impl SimDisk {
    pub(crate) fn new() -> Arc<Self> {
        Self::holding(BTreeMap::new())
    }

    fn holding(files: BTreeMap<String, Vec<u8>>) -> Arc<Self> {
        let files = files
            .into_iter()
            .map(|(name, data)| (name, SimData::synced(data)))
            .collect();
        Arc::new(Self(Arc::new(Mutex::new(Sim {
            files,
            capacity: usize::MAX,
            operations: 0,
            fault: None,
            broken: false,
        }))))
    }

    pub(crate) fn fail_at(&self, operation: usize, fault: Fault) {
        self.0.lock().fault = Some((operation, fault));
    }

    pub(crate) fn operations(&self) -> usize {
        self.0.lock().operations
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    pub(crate) fn heal(&self) {
        let mut sim = self.0.lock();
        sim.broken = false;
        sim.fault = None;
    }

    pub(crate) fn set_capacity(&self, bytes: usize) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// The bytes of a file that are not zero.
    pub(crate) fn written(&self, file: &str) -> Vec<usize> {
        let data = &self.0.lock().files[file].data;
        (0..data.len()).filter(|byte| data[*byte] != 0).collect()
    }

    pub(crate) fn flip(&self, file: &str, byte: usize, mask: u8) {
        let mut sim = self.0.lock();
        let file = sim.files.get_mut(file).expect("the file");
        file.data[byte] ^= mask;
        file.safe[byte] ^= mask;
    }

    /// The disk as it is found after power has been lost now.
    pub(crate) fn after_power_loss(&self, dice: &mut Dice) -> Arc<Self> {
        let sim = self.0.lock();
        Self::holding(
            sim.files
                .iter()
                .map(|(name, file)| (name.clone(), file.after_power_loss(dice)))
                .collect(),
        )
    }

    /// The disk as the next process finds it when only this one died.
    pub(crate) fn after_kill(&self) -> Arc<Self> {
        let sim = self.0.lock();
        Self::holding(
            sim.files
                .iter()
                .map(|(name, file)| (name.clone(), file.data.clone()))
                .collect(),
        )
    }
}

impl SimData {
    fn synced(data: Vec<u8>) -> Self {
        let used = (0..data.len() / SECTOR)
            .filter(|sector| {
                data[sector * SECTOR..(sector + 1) * SECTOR]
                    .iter()
                    .any(|byte| *byte != 0)
            })
            .collect();
        Self {
            safe: data.clone(),
            data,
            unsynced: BTreeMap::new(),
            used,
        }
    }

    fn after_power_loss(&self, dice: &mut Dice) -> Vec<u8> {
        let mut left = self.safe.clone();
        if left.len() != self.data.len() && dice.roll(2) == 0 {
            left.resize(self.data.len(), 0);
        }
        for (sector, versions) in &self.unsynced {
            // As it was before, or after any of the writes.
            let choice = dice.roll(versions.len() + 1);
            let start = sector * SECTOR;
            if choice > 0 && start < left.len() {
                let end = (start + SECTOR).min(left.len());
                left[start..end].copy_from_slice(&versions[choice - 1][..end - start]);
            }
        }
        left
    }
}

impl Sim {
    /// Counts an operation. The number of bytes a write may still do, or an error.
    fn operate(&mut self, wanted: usize) -> io::Result<usize> {
        if self.broken {
            return Err(io::Error::other("the disk is broken"));
        }
        let now = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if at == now => {
                self.broken = true;
                match fault {
                    Fault::Short => Ok(wanted / 2),
                    Fault::Fail | Fault::Power => Err(io::Error::other("the disk fails")),
                }
            }
            _ => Ok(wanted),
        }
    }
}

impl Sim {
    fn used(&self) -> usize {
        self.files.values().map(|file| file.used.len() * SECTOR).sum()
    }

    fn data(&mut self, name: &str) -> &mut SimData {
        self.files.get_mut(name).expect("an open file exists")
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let sim = self.0.lock();
        if sim.broken {
            return Err(io::Error::other("the disk is broken"));
        }
        if !sim.files.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(Box::new(SimFile {
            sim: self.0.clone(),
            name: name.to_owned(),
        }))
    }

    fn create(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut sim = self.0.lock();
        if sim.used() + contents.len() > sim.capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        sim.operate(0)?;
        if sim.broken {
            return Err(io::Error::other("the disk fails"));
        }
        let mut data = SimData::synced(contents.to_vec());
        data.used = (0..contents.len().div_ceil(SECTOR)).collect();
        sim.files.insert(name.to_owned(), data);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/simulated").join(name)
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Arc<Mutex<Sim>>,
    name: String,
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.sim.lock().data(&self.name).data.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sim = self.sim.lock();
        if sim.broken {
            return Err(io::Error::other("the disk is broken"));
        }
        let start = offset as usize;
        let found = sim
            .data(&self.name)
            .data
            .get(start..start + out.len())
            .ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        let mut sim = self.sim.lock();
        sim.operate(0)?;
        if sim.broken {
            return Err(io::Error::other("the disk fails"));
        }
        sim.data(&self.name).data.resize(size as usize, 0);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut sim = self.sim.lock();
        let allowed = sim.operate(data.len())?;
        let (capacity, used) = (sim.capacity, sim.used());
        let file = sim.data(&self.name);
        let start = offset as usize;
        if start + data.len() > file.data.len() {
            file.data.resize(start + data.len(), 0);
        }
        let sectors = start / SECTOR..(start + allowed).div_ceil(SECTOR);
        let new = sectors
            .clone()
            .filter(|sector| !file.used.contains(sector))
            .count();
        if new > 0 && used + new * SECTOR > capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        file.data[start..start + allowed].copy_from_slice(&data[..allowed]);
        for sector in sectors {
            let mut now = [0; SECTOR];
            let from = sector * SECTOR;
            let upto = (from + SECTOR).min(file.data.len());
            now[..upto - from].copy_from_slice(&file.data[from..upto]);
            file.unsynced.entry(sector).or_default().push(now);
            file.used.insert(sector);
        }
        if allowed < data.len() {
            Err(io::Error::other("a short write"))
        } else {
            Ok(())
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut sim = self.sim.lock();
        sim.operate(0)?;
        if sim.broken {
            return Err(io::Error::other("the disk fails"));
        }
        let file = sim.data(&self.name);
        file.safe.clone_from(&file.data);
        file.unsynced.clear();
        Ok(())
    }
}
