//! Which experts a row goes through, decided on the device: routing.cu.

use super::gpu::{Cuda, THREADS, grid, whole};
use super::launches::{BAND, GEMM_ROWS, GROUP_ROWS};
use super::operation::Groups;
use super::rows::Rows;
use super::scratch::Grown;
use crate::cuda::{Argument, Grid};
use crate::numbers::architecture::Experts;

/// The step's rows in the order of their experts.
#[derive(Default)]
pub struct Routing {
    n_rows: usize,
    n_used: usize,
    n_experts: usize,
    /// `[n_rows, n_used]` each: experts, their weights, the places of the choices.
    experts: Grown<u32>,
    weights: Grown<f32>,
    place_of: Grown<u32>,
    /// `[n_rows * n_used]` each: of a place its row and its expert.
    row_of: Grown<u32>,
    expert_of: Grown<u32>,
    few: List,
    many: List,
}

/// Groups of rows of one expert: `[n, 4]`.
#[derive(Default)]
struct List {
    groups: Grown<i32>,
    n: usize,
}

impl List {
    fn at(&self) -> (Argument, usize) {
        (self.groups.at(), self.n)
    }
}

impl Routing {
    /// Rows that go through experts, one for each expert of a row.
    pub fn n_places(&self) -> usize {
        self.n_rows * self.n_used
    }

    pub fn groups(&self) -> Groups {
        let rows_each = self.n_places() / self.n_experts.max(1);
        Groups { few: self.few.at(), many: self.many.at(), rows_each }
    }

    pub fn row_of(&self) -> Argument {
        self.row_of.at()
    }

    pub fn expert_of(&self) -> Argument {
        self.expert_of.at()
    }
}

impl Cuda {
    /// See [`crate::device::Device::route`].
    pub(super) fn choose(&self, logits: &Rows, experts: &Experts, routing: &mut Routing) {
        let n_places = logits.n_rows() * experts.n_used;
        routing.n_rows = logits.n_rows();
        routing.n_used = experts.n_used;
        routing.n_experts = experts.n_experts;
        self.room(&mut routing.experts, n_places);
        self.room(&mut routing.weights, n_places);
        self.room(&mut routing.place_of, n_places);
        self.room(&mut routing.row_of, n_places);
        self.room(&mut routing.expert_of, n_places);
        for (list, most) in [(&mut routing.few, GROUP_ROWS), (&mut routing.many, GEMM_ROWS)] {
            // Every expert may have a group that is not full, and a band has all of its groups.
            list.n = n_places.min(n_places / most + experts.n_experts).next_multiple_of(BAND);
            self.room(&mut list.groups, list.n * 4);
        }
        let choose = [
            logits.at(),
            whole(logits.n_rows()),
            whole(logits.stride()),
            whole(experts.n_experts),
            whole(experts.n_used),
            Argument::I32(experts.normalized.into()),
            routing.experts.at(),
            routing.weights.at(),
        ];
        let sort = [
            routing.experts.at(),
            whole(n_places),
            whole(experts.n_used),
            whole(experts.n_experts),
            routing.row_of.at(),
            routing.expert_of.at(),
            routing.place_of.at(),
            routing.few.groups.at(),
            whole(routing.few.n),
            routing.many.groups.at(),
            whole(routing.many.n),
        ];
        let shared = 2 * (experts.n_experts + 1) * size_of::<i32>();
        let shared = u32::try_from(shared).expect("experts are some hundreds");
        // SAFETY: logits have a column for each expert, and every buffer the size that its doc says.
        unsafe {
            let rows = grid(logits.n_rows().div_ceil(THREADS as usize), 1, 1);
            self.launch(&self.kernels.choose_experts, rows, &choose);
            self.launch(&self.kernels.sort_by_expert, Grid { shared, ..grid(1, 1, 1) }, &sort);
        }
    }

    /// See [`crate::device::Device::combine`].
    pub(super) fn combine_places(&self, routing: &Routing, x: &Rows, y: &mut Rows) {
        assert!(x.n_rows() == routing.n_places() && y.n_rows() == routing.n_rows && x.width() == y.width());
        let (width, stride) = (whole(y.width()), whole(y.stride()));
        let arguments = [
            x.at(),
            routing.place_of.at(),
            routing.weights.at(),
            whole(routing.n_used),
            y.at_mut(),
            width,
            stride,
        ];
        // SAFETY: every place lies in x, and every row in y.
        unsafe { self.launch(&self.kernels.combine_experts, grid(routing.n_rows, 1, 1), &arguments) };
    }
}
