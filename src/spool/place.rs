//! The directories of a spool.

/// A directory of the spool; what each holds stands in [`crate::spool::states`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    New,
    Work,
    Out,
    Done,
    Failed,
    Hold,
    Tmp,
}

impl Place {
    /// Every place, in the order of the enum.
    pub const ALL: [Place; 7] =
        [Place::New, Place::Work, Place::Out, Place::Done, Place::Failed, Place::Hold, Place::Tmp];

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
        }
    }

    /// The mode that a missing directory is made with. `new` is for producers of the group: setgid, so that what
    /// they drop belongs to it, and sticky, so that nobody removes what another has dropped.
    pub fn mode(self) -> u32 {
        match self {
            Place::New => 0o3770,
            Place::Out | Place::Done | Place::Failed | Place::Hold => 0o750,
            Place::Work | Place::Tmp => 0o700,
        }
    }
}
