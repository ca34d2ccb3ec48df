//! How operations are launched, alone or with a neighbour: elementwise.cu, matmul.cu, gemm.cu and attention.cu.

use super::grid::{THREADS, grid, whole};
use super::kernels::Kernels;
use super::launch::Launch;
use super::operation::{
    Activate, Adapted, Add, Attention, Codes, MAX_PARTS, Norm, Part, Store, Turn, UpdatedPart, Way,
};
use super::tuning::Choice;
use crate::cuda::{Argument, Function, Grid};
use crate::kernels::attention::PART;
use crate::kernels::lora::PART_INPUTS;
use crate::kernels::tile::TILE_ROWS;
use crate::numbers::family::Activation;

/// Rows that meet a tile together, at most.
pub const GROUP_ROWS: usize = 8;
/// Threads of a norm, at most.
const NORM_THREADS: usize = 512;
/// Groups of rows that meet a tile one after the other.
pub const BAND: usize = 4;
/// Rows and tiles of a block of threads of tensor cores.
pub const GEMM_ROWS: usize = 64;
const GEMM_TILES: usize = 4;
/// Blocks of inputs whose sums are in shared memory at once.
const CHUNK: usize = 32;
/// Inputs whose part of an adapter's A is in shared memory at once.
const A_ROWS: usize = 16;
/// Queries that share keys and values in one block of threads.
const QUERIES: usize = 4;

const NONE: Argument = Argument::Address(0);

fn launch(kernel: &Function, grid: Grid, arguments: Vec<Argument>) -> Launch {
    Launch { kernel: kernel.clone(), grid, structure: Vec::new(), arguments }
}

fn or_nowhere(codes: Option<&Codes>) -> [Argument; 3] {
    codes.map_or([NONE; 3], |codes| codes.codes)
}

/// Bytes of shared memory that hold so many numbers.
fn shared<T>(n: usize) -> u32 {
    u32::try_from(n * size_of::<T>()).expect("at most some ten KiB")
}

/// Blocks of threads for each 128 elements of each row.
fn pieces(n_rows: usize, stride: usize) -> Grid {
    grid(stride.div_ceil(THREADS as usize), n_rows, 1)
}

pub fn norm(kernels: &Kernels, norm: &Norm, added: Option<&Add>, codes: Option<&Codes>) -> Launch {
    let mut arguments =
        vec![norm.x, added.map_or(NONE, |add| add.x), norm.weight, Argument::F32(norm.eps), norm.y];
    arguments.extend(or_nowhere(codes));
    arguments.extend([whole(norm.width), whole(norm.stride)]);
    let threads = norm.width.next_multiple_of(THREADS as usize).min(NORM_THREADS);
    let threads = u32::try_from(threads).expect("some hundred");
    launch(&kernels.rms_norm, Grid { threads, ..grid(norm.heads, norm.n_rows, 1) }, arguments)
}

pub fn codes(kernels: &Kernels, codes: &Codes) -> Launch {
    let [at, scale, sum] = codes.codes;
    let arguments = vec![codes.x, at, scale, sum, whole(codes.stride)];
    launch(&kernels.quantize, pieces(codes.n_rows, codes.stride), arguments)
}

pub fn add(kernels: &Kernels, add: &Add) -> Launch {
    let blocks = grid(add.n.div_ceil(THREADS as usize), 1, 1);
    launch(&kernels.add, blocks, vec![add.x, add.y, whole(add.n)])
}

pub fn activation(kernels: &Kernels, activate: &Activate, codes: Option<&Codes>) -> Launch {
    let kernel = match activate.activation {
        Activation::Silu => &kernels.silu_mul,
        Activation::GeluTanh => &kernels.gelu_mul,
    };
    let [at, scale, sum] = or_nowhere(codes);
    let arguments = vec![activate.gate, activate.up, at, scale, sum, whole(activate.stride)];
    launch(kernel, pieces(activate.n_rows, activate.stride), arguments)
}

/// Products of one way, with up to [`MAX_PARTS`] matrices.
pub fn products(of: &[Part], way: &Way, chosen: Choice) -> Launch {
    let mut parts = [Part::default(); MAX_PARTS];
    parts[..of.len()].copy_from_slice(of);
    let n_tiles =
        |per_block: usize| -> usize { of.iter().map(|part| part.tiles().div_ceil(per_block)).sum() };
    let n_rows = way.n_rows;
    let rows = n_rows.next_power_of_two().min(GROUP_ROWS);
    let rows_each = way.groups.map_or(n_rows, |groups| groups.rows_each);
    let many = way.gemm.as_ref().filter(|_| rows_each >= chosen.gemm_from);
    let (kernel, group_rows, tiles_each) = match many {
        Some(gemm) => (gemm, GEMM_ROWS, GEMM_TILES),
        None => (&way.kernel, GROUP_ROWS, 1),
    };
    let (groups, n_groups) = match way.groups {
        Some(groups) if many.is_some() => groups.many,
        Some(groups) => groups.few,
        None => (NONE, n_rows.div_ceil(group_rows)),
    };
    let blocks = grid(n_groups.min(BAND), n_tiles(tiles_each), n_groups.div_ceil(BAND));
    let blocks = match many {
        Some(_) => blocks,
        None => {
            let shared = shared::<f32>(CHUNK * way.n_sums * rows * TILE_ROWS);
            Grid { shared, threads: chosen.threads(rows), ..blocks }
        }
    };
    let mut arguments = vec![whole(way.stride)];
    arguments.extend_from_slice(way.inputs.as_slice());
    arguments.extend([whole(n_rows), groups, whole(rows)]);
    Launch { structure: bytemuck::cast_slice(&parts).to_vec(), ..launch(kernel, blocks, arguments) }
}

/// Updates of up to [`MAX_PARTS`] projections: two launches.
pub fn updates(kernels: &Kernels, of: &Adapted, parts: &[UpdatedPart], to: &mut Vec<Launch>) {
    let mut all = [UpdatedPart::default(); MAX_PARTS];
    all[..parts.len()].copy_from_slice(parts);
    let structure = bytemuck::cast_slice(&all).to_vec();
    let n_parts = of.width.div_ceil(PART_INPUTS);
    let (max_rank, layer) = (whole(of.max_rank), whole(of.layer));
    let mut shrink = vec![of.x, whole(of.width), whole(of.stride)];
    shrink.extend(of.adapters);
    shrink.extend([layer, of.hidden, max_rank]);
    let shared_by = shared::<u16>(A_ROWS * of.max_rank);
    let blocks = Grid { shared: shared_by, ..grid(n_parts, of.n_rows, parts.len()) };
    to.push(Launch { structure: structure.clone(), ..launch(&kernels.lora_shrink, blocks, shrink) });
    let mut expand = vec![of.hidden, whole(n_parts), max_rank];
    expand.extend(of.adapters);
    expand.push(layer);
    let most = parts.iter().map(|part| usize::try_from(part.n_outputs).unwrap_or(0)).max().unwrap_or(0);
    let blocks = grid(most.div_ceil(THREADS as usize), of.n_rows, parts.len());
    let blocks = Grid { shared: shared::<f32>(of.max_rank), ..blocks };
    to.push(Launch { structure, ..launch(&kernels.lora_expand, blocks, expand) });
}

/// What is made ready for attention: any of it may be missing.
#[derive(Default)]
pub struct Prepared<'a> {
    pub queries: Option<&'a Turn>,
    pub keys: Option<&'a Turn>,
    /// Of the heads of queries, and of keys.
    pub norms: (Option<&'a Norm>, Option<&'a Norm>),
    pub store: Option<&'a Store>,
}

pub fn prepare(kernels: &Kernels, prepared: &Prepared<'_>) -> Launch {
    let Prepared { queries, keys, norms: (q_norm, k_norm), store } = *prepared;
    let turned = queries.or(keys);
    let (head_dim, n_rows) = match (turned, store) {
        (Some(turn), _) => (turn.head_dim, turn.n_rows),
        (None, Some(store)) => (store.head_dim, store.n_rows),
        (None, None) => (0, 0),
    };
    let weight = |norm: Option<&Norm>| norm.map_or(NONE, |norm| norm.weight);
    let n_heads = queries.map_or(0, |q| q.heads);
    let nothing = [NONE, whole(1), whole(0), whole(0), whole(0), whole(head_dim), whole(0)];
    let mut arguments = store.map_or(nothing, |store| store.cache).to_vec();
    arguments.extend([queries.map_or(NONE, |q| q.x), whole(queries.map_or(0, |q| q.stride)), whole(n_heads)]);
    arguments.extend([weight(q_norm), store.map_or(NONE, |store| store.k), weight(k_norm)]);
    arguments.extend([store.map_or(NONE, |store| store.v), whole(store.map_or(0, |store| store.stride))]);
    arguments.push(Argument::F32(q_norm.map_or(0.0, |norm| norm.eps)));
    arguments.extend(turned.map_or([NONE, NONE, whole(0)], |turn| [turn.cos, turn.sin, whole(turn.half)]));
    arguments.extend(store.map_or([NONE; 3], |store| store.places));
    let heads = n_heads + store.map_or(0, |store| 2 * store.n_kv_heads);
    launch(
        &kernels.prepare_heads,
        Grid { shared: shared::<f32>(head_dim), ..grid(heads, n_rows, 1) },
        arguments,
    )
}

/// Two launches where rows may have several parts.
pub fn attention(kernels: &Kernels, attention: &Attention, codes: Option<&Codes>, to: &mut Vec<Launch>) {
    let Attention { n_kv_heads, n_shared, head_dim, n_rows, max_parts, y, outs, weights, .. } = *attention;
    let [positions, first_block, blocks] = attention.places;
    let (stride, codes) = (whole(attention.stride), or_nowhere(codes));
    let mut arguments = attention.cache.to_vec();
    arguments.extend([attention.q, stride, whole(n_shared), Argument::F32(attention.scale)]);
    arguments.extend([positions, attention.starts, first_block, blocks, y, outs, weights]);
    arguments.extend(codes);
    let shared = shared::<f32>(QUERIES * (head_dim + PART));
    let blocks = grid(n_rows, n_kv_heads * n_shared.div_ceil(QUERIES), max_parts);
    to.push(launch(&kernels.attend, Grid { shared, ..blocks }, arguments));
    if max_parts > 1 {
        let mut arguments = vec![positions, attention.starts, outs, weights, whole(max_parts), y];
        arguments.extend(codes);
        arguments.extend([stride, whole(head_dim)]);
        to.push(launch(&kernels.combine_parts, grid(n_rows, n_kv_heads * n_shared, 1), arguments));
    }
}
