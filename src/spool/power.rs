//! What a power cut leaves of a disk, for tests: the changes of the spool are recorded, and every state that the
//! syncs allow after any of them is made anew elsewhere.
//!
//! The model is the one of ALICE and CrashMonkey, as pessimistic as [`crate::spool::states`] says: of a file's
//! unsynced data all, nothing, a half, or zeros in its place are kept; of the unsynced names of directories any
//! subset, except that where a rename's old name is gone its new one is there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::place::Place;
use super::probe::{Change, Probe, Site};
use super::trial::Told;

type Slot = (Place, OsString);

/// A recorded change; files by number.
#[derive(Debug, Clone)]
enum Op {
    Create {
        slot: Slot,
        file: usize,
    },
    Write {
        file: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: usize,
        n_bytes: usize,
    },
    SyncFile {
        file: usize,
    },
    SyncDir {
        place: Place,
    },
    Rename {
        from: Slot,
        to: Slot,
    },
    Remove {
        slot: Slot,
    },
    Told(Told),
    /// A reader took an answer from out/, and made sure of it.
    Taken {
        slot: Slot,
    },
}

/// From so many states on, a sample of them has two deviations from the extremes.
const THOROUGH: usize = 256;

/// Records what happens to a spool.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    base: Vec<(Slot, usize, Vec<u8>)>,
    ops: Vec<Op>,
    /// By inode.
    files: HashMap<u64, usize>,
    n_files: usize,
}

/// A change of one name that a power cut may undo.
#[derive(Debug)]
struct NameOp {
    slot: Slot,
    file: Option<usize>,
    /// Of a rename's removal: the addition that is kept with it.
    needs: Option<usize>,
    is_synced: bool,
}

#[derive(Debug, Default, Clone)]
struct Content {
    synced: Vec<u8>,
    ops: Vec<(usize, Vec<u8>)>,
}

/// All that may be left at one moment.
#[derive(Debug)]
pub struct Moment {
    base: BTreeMap<Slot, usize>,
    names: Vec<NameOp>,
    contents: Vec<Content>,
    pub told: Vec<Told>,
    /// The names in out/ that readers have taken away.
    pub taken: Vec<OsString>,
}

/// One of the states that may be left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tree(pub BTreeMap<Slot, (usize, Bytes)>);

type Bytes = Arc<Vec<u8>>;

impl Recorder {
    /// Begins with what lies in the spool at `root`, all of it synced.
    pub fn of(root: &Path) -> Arc<Self> {
        let mut log = Log::default();
        for place in Place::ALL {
            for entry in fs::read_dir(root.join(place.name())).unwrap() {
                let entry = entry.unwrap();
                let inode = entry.metadata().unwrap().ino();
                let n_files = &mut log.n_files;
                let file = *log.files.entry(inode).or_insert_with(|| {
                    *n_files += 1;
                    *n_files - 1
                });
                log.base.push(((place, entry.file_name()), file, fs::read(entry.path()).unwrap()));
            }
        }
        Arc::new(Self(Mutex::new(log)))
    }

    /// Listens to one life of the spool; the sync at `left_out` is not made.
    pub fn attach(self: &Arc<Self>, probe: &Probe, left_out: Option<Site>) {
        let recorder = self.clone();
        probe.listen(Arc::new(move |change| recorder.record(change)), left_out);
    }

    pub fn tell(&self, told: Told) {
        self.0.lock().unwrap().ops.push(Op::Told(told));
    }

    pub fn take(&self, name: OsString) {
        self.0.lock().unwrap().ops.push(Op::Taken { slot: (Place::Out, name) });
    }

    pub fn n_ops(&self) -> usize {
        self.0.lock().unwrap().ops.len()
    }

    fn record(&self, change: Change) {
        let mut log = self.0.lock().unwrap();
        let slot = |(place, name): (Place, &std::ffi::OsStr)| (place, name.to_owned());
        let inode = |file: &File| file.metadata().unwrap().ino();
        let op = match change {
            Change::Create { place, name, file } => {
                let number = log.n_files;
                log.n_files += 1;
                log.files.insert(inode(file), number);
                Op::Create { slot: (place, name.to_owned()), file: number }
            }
            Change::Write { file, bytes } => {
                Op::Write { file: log.files[&inode(file)], bytes: bytes.to_vec() }
            }
            Change::Truncate { file, n_bytes } => {
                Op::Truncate { file: log.files[&inode(file)], n_bytes: usize::try_from(n_bytes).unwrap() }
            }
            Change::SyncFile { file } => Op::SyncFile { file: log.files[&inode(file)] },
            Change::SyncDir { place } => Op::SyncDir { place },
            Change::Rename { from, to } => Op::Rename { from: slot(from), to: slot(to) },
            Change::Remove { place, name } => Op::Remove { slot: (place, name.to_owned()) },
        };
        log.ops.push(op);
    }

    /// What may be left after the first `n_ops` changes.
    pub fn moment(&self, n_ops: usize) -> Moment {
        let log = self.0.lock().unwrap();
        let contents = vec![Content::default(); log.n_files];
        let (base, names, told, taken) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        let mut moment = Moment { base, names, contents, told, taken };
        let mut now = BTreeMap::new();
        for (slot, file, bytes) in &log.base {
            moment.base.insert(slot.clone(), *file);
            moment.contents[*file].synced = bytes.clone();
            now.insert(slot.clone(), *file);
        }
        for op in &log.ops[..n_ops] {
            moment.apply(op, &mut now);
        }
        moment
    }
}

impl Moment {
    /// A number for what was told and taken.
    pub fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (format!("{:?}", self.told), &self.taken).hash(&mut hasher);
        hasher.finish()
    }

    fn apply(&mut self, op: &Op, now: &mut BTreeMap<Slot, usize>) {
        match op {
            Op::Create { slot, file } => {
                now.insert(slot.clone(), *file);
                self.name(slot, Some(*file), None);
            }
            Op::Write { file, bytes } => {
                let content = &mut self.contents[*file];
                let at = content.whole().len();
                content.ops.push((at, bytes.clone()));
            }
            Op::Truncate { file, n_bytes } => self.contents[*file].ops.push((*n_bytes, Vec::new())),
            Op::SyncFile { file } => {
                let synced = self.contents[*file].whole();
                self.contents[*file] = Content { synced, ops: Vec::new() };
            }
            Op::SyncDir { place } => {
                for at in 0..self.names.len() {
                    if self.names[at].slot.0 == *place {
                        self.names[at].is_synced = true;
                        if let Some(add) = self.names[at].needs {
                            self.names[add].is_synced = true;
                        }
                    }
                }
            }
            Op::Rename { from, to } => {
                let file = now.remove(from).expect("a file was renamed");
                now.insert(to.clone(), file);
                let add = self.name(to, Some(file), None);
                self.name(from, None, Some(add));
            }
            Op::Remove { slot } => {
                now.remove(slot);
                self.name(slot, None, None);
            }
            Op::Taken { slot } => {
                now.remove(slot);
                let at = self.name(slot, None, None);
                self.names[at].is_synced = true;
                self.taken.push(slot.1.clone());
            }
            Op::Told(told) => self.told.push(told.clone()),
        }
    }

    fn name(&mut self, slot: &Slot, file: Option<usize>, needs: Option<usize>) -> usize {
        self.names.push(NameOp { slot: slot.clone(), file, needs, is_synced: false });
        self.names.len() - 1
    }

    /// The states that may be left: all of them, or where they are very many those next to "all is kept" and
    /// "nothing is kept", and a sample.
    pub fn trees(&self, max_all: usize) -> Vec<Tree> {
        let free: Vec<usize> = (0..self.names.len()).filter(|at| !self.names[*at].is_synced).collect();
        let contents: Vec<Vec<Bytes>> = (0..self.contents.len()).map(|file| self.left(file)).collect();
        let torn: Vec<usize> = (0..contents.len()).filter(|file| contents[*file].len() > 1).collect();
        // One digit for each choice: the names, then the contents. The greatest digit keeps everything.
        let bases: Vec<usize> =
            free.iter().map(|_| 2).chain(torn.iter().map(|file| contents[*file].len())).collect();
        let n_all = bases.iter().try_fold(1usize, |product, base| product.checked_mul(*base));
        let mut choices: Vec<Vec<usize>> = Vec::new();
        match n_all.filter(|n| *n <= max_all) {
            Some(n_all) => choices.extend((0..n_all).map(|number| digits(number, &bases))),
            None => {
                let most: Vec<usize> = bases.iter().map(|base| base - 1).collect();
                let n_places = if max_all < THOROUGH { 1 } else { 2 };
                choices.extend(
                    neighbours(&most, &bases, n_places).iter().map(|c| self.without_orphans(&free, c)),
                );
                let mut random = Random(0x9e37_79b9_7f4a_7c15);
                let few = neighbours(&vec![0; bases.len()], &bases, n_places).into_iter();
                let some = (0..max_all / 8).map(|_| bases.iter().map(|base| random.below(*base)).collect());
                choices.extend(few.chain(some).map(|choice| self.with_additions(&free, choice)));
            }
        }
        let tree = |choice: &Vec<usize>| {
            let (of_names, of_contents) = choice.split_at(free.len());
            let slots = self.slots(&free, of_names)?;
            let mut digits = vec![0; contents.len()];
            torn.iter().zip(of_contents).for_each(|(file, digit)| digits[*file] = *digit);
            let content = |file: usize| (file, contents[file][digits[file]].clone());
            Some(Tree(slots.into_iter().map(|(slot, file)| (slot, content(file))).collect()))
        };
        choices.iter().filter_map(tree).collect()
    }

    /// What is not added is not removed from where it was.
    fn without_orphans(&self, free: &[usize], choice: &[usize]) -> Vec<usize> {
        let mut choice = choice.to_vec();
        for (at, place) in free.iter().enumerate() {
            let add = self.names[*place].needs.and_then(|add| free.binary_search(&add).ok());
            if add.is_some_and(|add| choice[add] == 0) {
                choice[at] = 0;
            }
        }
        choice
    }

    /// What is removed from where it was is added.
    fn with_additions(&self, free: &[usize], mut choice: Vec<usize>) -> Vec<usize> {
        for (at, place) in free.iter().enumerate() {
            let add = self.names[*place].needs.and_then(|add| free.binary_search(&add).ok());
            if let Some(add) = add.filter(|_| choice[at] == 1) {
                choice[add] = 1;
            }
        }
        choice
    }

    /// The names that are left; none for a choice that the file system does not make.
    fn slots(&self, free: &[usize], digits: &[usize]) -> Option<BTreeMap<Slot, usize>> {
        let mut is_kept: Vec<bool> = self.names.iter().map(|name| name.is_synced).collect();
        free.iter().zip(digits).for_each(|(at, digit)| is_kept[*at] = *digit == 1);
        let mut slots = self.base.clone();
        for (_, name) in self.names.iter().enumerate().filter(|(at, _)| is_kept[*at]) {
            if name.needs.is_some_and(|add| !is_kept[add]) {
                return None;
            }
            match name.file {
                Some(file) => slots.insert(name.slot.clone(), file),
                None => slots.remove(&name.slot),
            };
        }
        Some(slots)
    }

    /// The contents that may be left of a file, all that was written last. What only ever had a name in tmp/ is
    /// removed unread.
    fn left(&self, file: usize) -> Vec<Bytes> {
        let content = &self.contents[file];
        let added = self.names.iter().filter(|name| name.file == Some(file)).map(|name| &name.slot);
        let found = self.base.iter().filter(|(_, of)| **of == file).map(|(slot, _)| slot);
        let is_read = added.chain(found).any(|slot| slot.0 != Place::Tmp);
        if content.ops.is_empty() || !is_read {
            return vec![Arc::new(content.whole())];
        }
        let mut all: Vec<Bytes> = Vec::new();
        for bytes in [content.synced.clone(), content.zeroed(), content.half(), content.whole()] {
            if !all.iter().any(|other| **other == bytes) {
                all.push(Arc::new(bytes));
            }
        }
        all
    }
}

impl Content {
    fn whole(&self) -> Vec<u8> {
        self.after(&self.ops)
    }

    fn after(&self, ops: &[(usize, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for (at, written) in ops {
            bytes.truncate(*at);
            bytes.extend_from_slice(written);
        }
        bytes
    }

    /// The size arrived, the data did not.
    fn zeroed(&self) -> Vec<u8> {
        let whole = self.whole();
        let n_same = self.synced.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        whole[..n_same].iter().copied().chain(whole[n_same..].iter().map(|_| 0)).collect()
    }

    fn half(&self) -> Vec<u8> {
        let n_half = self.ops.len() / 2;
        let mut bytes = self.after(&self.ops[..n_half]);
        let (at, written) = &self.ops[n_half];
        bytes.truncate(*at);
        bytes.extend_from_slice(&written[..written.len() / 2]);
        bytes
    }
}

impl Tree {
    /// Makes the files of the spool at `root` anew.
    pub fn lay_out(&self, root: &Path) {
        for place in Place::ALL {
            for entry in fs::read_dir(root.join(place.name())).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        let mut first: HashMap<usize, std::path::PathBuf> = HashMap::new();
        for ((place, name), (file, bytes)) in &self.0 {
            let path = root.join(place.name()).join(name);
            match first.get(file) {
                Some(other) => fs::hard_link(other, &path).unwrap(),
                None => {
                    fs::write(&path, bytes.as_slice()).unwrap();
                    first.insert(*file, path);
                }
            }
        }
    }

    /// The same for trees that are the same but for the numbers of files.
    pub fn key(&self, told: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut numbers = HashMap::new();
        for (slot, (file, bytes)) in &self.0 {
            let n = numbers.len();
            (slot, numbers.entry(file).or_insert(n), bytes).hash(&mut hasher);
        }
        told.hash(&mut hasher);
        hasher.finish()
    }
}

fn digits(mut number: usize, bases: &[usize]) -> Vec<usize> {
    let mut digits = Vec::with_capacity(bases.len());
    for base in bases {
        digits.push(number % base);
        number /= base;
    }
    digits
}

/// The choice itself and all that differ from it in up to `n_places` places.
fn neighbours(centre: &[usize], bases: &[usize], n_places: usize) -> Vec<Vec<usize>> {
    let mut all = vec![(0, centre.to_vec())];
    let mut begin = 0;
    for _ in 0..n_places {
        let end = all.len();
        for at in begin..end {
            let (first, choice) = all[at].clone();
            for place in first..bases.len() {
                for digit in (0..bases[place]).filter(|digit| *digit != centre[place]) {
                    let mut other = choice.clone();
                    other[place] = digit;
                    all.push((place + 1, other));
                }
            }
        }
        begin = end;
    }
    all.into_iter().map(|(_, choice)| choice).collect()
}

/// xorshift: the same samples in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
}
