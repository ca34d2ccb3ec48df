//! The directories of a spool.

/// A directory of the spool; what each holds stands in [`crate::spool::states`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    New,
    Work,
    Out,
    Done,
    Failed,
    Hold,
    Tmp,
    /// Wishes of operators to the running daemon; see [`crate::spool::wish`].
    Control,
}

impl Place {
    /// Every place, in the order of the enum.
    pub const ALL: [Place; 8] = [
        Place::New,
        Place::Work,
        Place::Out,
        Place::Done,
        Place::Failed,
        Place::Hold,
        Place::Tmp,
        Place::Control,
    ];

    /// The places that hold jobs and answers, for people to look at.
    pub const JOBS: [Place; 6] =
        [Place::New, Place::Work, Place::Hold, Place::Out, Place::Done, Place::Failed];

    /// The directory's name under the spool's root.
    pub fn name(self) -> &'static str {
        match self {
            Place::New => "new",
            Place::Work => "work",
            Place::Out => "out",
            Place::Done => "done",
            Place::Failed => "failed",
            Place::Hold => "hold",
            Place::Tmp => "tmp",
            Place::Control => "control",
        }
    }

    /// The mode that a missing directory is made with: `new` is for producers of the group, with setgid so
    /// that what they drop belongs to it.
    pub fn mode(self) -> u32 {
        if self == Place::New { 0o2770 } else { 0o750 }
    }
}
