//! The order of a matrix's elements in an engine: tiles of [`TILE_ROWS`] rows side by side, so that a product reads
//! a tile from its first byte to its last and keeps every row's sum in a lane of its own.
//!
//! The last tile of a matrix is filled up with rows of zeros. Elements of 16 and 32 bits and floats of eight lie as
//! `[stride][16]`, codes of eight bits as `[stride / 4][16][4]`, nibbles as `[stride / 8][16][4]` bytes: of eight
//! inputs the first four are low, the others high.

/// Rows that are stored side by side.
pub const TILE_ROWS: usize = 16;

/// Tiles of so many rows.
pub fn n_tiles(n_rows: usize) -> usize {
    n_rows.div_ceil(TILE_ROWS)
}

/// How the elements of a tile's rows are woven together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weave {
    /// One element of so many bytes of each row, then the next of each.
    Elements(usize),
    /// Four bytes of each row.
    Quads,
    /// Eight nibbles of each row, which come one per byte.
    Nibbles,
    /// 32 codes of four to six bits of each row, which come one per byte: planes of four bytes a row. See `planes`.
    Planes { bits: usize },
}

impl Weave {
    /// Appends the tiles of rows that lie one behind the other, `row_bytes` each; fewer than a tile's rows are filled
    /// up with zeros. A row of nibbles is a multiple of eight bytes, one of quads of four, one of planes of 32.
    pub fn append(self, rows: &[u8], row_bytes: usize, out: &mut Vec<u8>) {
        let packed: Vec<u8>;
        let (rows, row_bytes, size) = match self {
            Weave::Elements(size) => (rows, row_bytes, size),
            Weave::Quads => (rows, row_bytes, 4),
            Weave::Nibbles => {
                packed = rows.chunks_exact(8).flat_map(pack).collect();
                (&packed[..], row_bytes / 2, 4)
            }
            Weave::Planes { bits } => {
                packed = rows.as_chunks().0.iter().flat_map(|codes| planes(codes, bits)).flatten().collect();
                (&packed[..], row_bytes / 8 * bits, 4)
            }
        };
        let start = out.len();
        out.resize(start + n_tiles(rows.len() / row_bytes) * TILE_ROWS * row_bytes, 0);
        weave(rows, row_bytes, size, &mut out[start..]);
    }
}

/// The tiles of rows of `width` elements, units of `size` of them of each row in turn. `out` has whole tiles; rows
/// that are not there stay as they are.
pub fn weave<E: Copy>(rows: &[E], width: usize, size: usize, out: &mut [E]) {
    for (tile, out) in rows.chunks(TILE_ROWS * width).zip(out.chunks_exact_mut(TILE_ROWS * width)) {
        for (row_idx, row) in tile.chunks_exact(width).enumerate() {
            for (unit_idx, unit) in row.chunks_exact(size).enumerate() {
                out[(unit_idx * TILE_ROWS + row_idx) * size..][..size].copy_from_slice(unit);
            }
        }
    }
}

/// Eight codes in four bytes.
fn pack(codes: &[u8]) -> [u8; 4] {
    std::array::from_fn(|i| codes[i] & 15 | codes[i + 4] << 4)
}

/// 32 codes as `bits` planes of four bytes; a quad is four consecutive inputs, whose codes stand in a plane's four bytes.
///
/// Nibbles are packed as ever, two quads to a plane. Five bits: four planes of nibbles, then one where bit j of a byte is
/// the fifth of its code in quad j. Six bits: for each half of 16, two planes of nibbles, then one where the bits
/// 2 j and 2 j + 1 of a byte are the upper ones of its code in the half's quad j.
fn planes(codes: &[u8; 32], bits: usize) -> impl Iterator<Item = [u8; 4]> {
    let (n_parts, n_upper) = (if bits == 6 { 2 } else { 1 }, bits - 4);
    codes.chunks(32 / n_parts).flat_map(move |part| {
        let low = part.chunks_exact(8).map(pack);
        let upper = std::array::from_fn(|i| {
            let quads = part.chunks_exact(4).enumerate();
            quads.fold(0, |byte, (j, quad)| byte | quad[i] >> 4 << (j * n_upper))
        });
        low.chain((n_upper > 0).then_some(upper))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_formula() {
        // 18 rows of 16 elements: one tile and two rows of another.
        let (n_rows, n) = (18, 16);
        let code = |row: usize, k: usize| u8::try_from((row * 7 + k * 3) % 16).unwrap();
        let rows: Vec<u8> = (0..n_rows * n).map(|i| code(i / n, i % n)).collect();
        let (mut bytes, mut quads, mut nibbles) = (Vec::new(), Vec::new(), Vec::new());
        Weave::Elements(1).append(&rows, n, &mut bytes);
        Weave::Quads.append(&rows, n, &mut quads);
        Weave::Nibbles.append(&rows, n, &mut nibbles);
        assert_eq!((bytes.len(), quads.len(), nibbles.len()), (2 * 16 * n, 2 * 16 * n, 16 * n));
        for row in 0..2 * TILE_ROWS {
            let (tile, lane) = (row / 16, row % 16);
            for k in 0..n {
                let wanted = if row < n_rows { code(row, k) } else { 0 };
                assert_eq!(bytes[(tile * n + k) * 16 + lane], wanted, "{row} {k}");
                assert_eq!(quads[tile * n * 16 + k / 4 * 64 + lane * 4 + k % 4], wanted, "{row} {k}");
                let pair = nibbles[tile * n * 8 + k / 8 * 64 + lane * 4 + k % 4];
                assert_eq!(if k % 8 < 4 { pair & 15 } else { pair >> 4 }, wanted, "{row} {k}");
            }
        }
        let halves: Vec<u8> = (0..16 * 4).flat_map(|i: u16| i.to_le_bytes()).collect();
        let mut woven = Vec::new();
        Weave::Elements(2).append(&halves, 8, &mut woven);
        // Row 1, element 2.
        assert_eq!(woven[(2 * 16 + 1) * 2..][..2], 6_u16.to_le_bytes());
    }
}
