//! The tile registers of one thread, and what the instructions do with them.

use super::decode::{Instruction, Rows};

const N_TILES: usize = 8;
const MAX_ROWS: usize = 16;
const MAX_ROW_BYTES: usize = 64;

/// Eight registers of a shape each; without a shape they are refused.
pub struct Tiles([Tile; N_TILES]);

#[derive(Clone, Copy)]
struct Tile {
    n_rows: usize,
    row_bytes: usize,
    rows: [[u8; MAX_ROW_BYTES]; MAX_ROWS],
}

impl Tile {
    const NONE: Self = Self { n_rows: 0, row_bytes: 0, rows: [[0; MAX_ROW_BYTES]; MAX_ROWS] };

    /// Four bytes of a row.
    fn quad(&self, row: usize, idx: usize) -> [u8; 4] {
        self.rows[row].as_chunks().0[idx]
    }
}

type Refusal = &'static str;

fn check(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

impl Tiles {
    pub const RELEASED: Self = Self([Tile::NONE; N_TILES]);

    /// # Errors
    /// What the processor would not do.
    ///
    /// # Safety
    /// The operands in memory are there.
    pub unsafe fn run(&mut self, instruction: Instruction) -> Result<(), Refusal> {
        match instruction {
            // SAFETY: the caller's promise.
            Instruction::Configure { from } => self.configure(unsafe { &*(from as *const [u8; 64]) }),
            Instruction::Release => {
                *self = Self::RELEASED;
                Ok(())
            }
            Instruction::Zero { tile } => {
                self.shaped(tile)?.rows = Tile::NONE.rows;
                Ok(())
            }
            // SAFETY: as above.
            Instruction::Load { tile, from } => unsafe { self.load(tile, from) },
            Instruction::Store { tile, to } => unsafe { self.store(tile, to) },
            Instruction::Multiply { sums, a, b } => self.multiply(sums, a, b),
        }
    }

    pub fn configure(&mut self, shapes: &[u8; 64]) -> Result<(), Refusal> {
        *self = Self::RELEASED;
        check(shapes[0] == 1, "LDTILECFG: the palette is not 1")?;
        check(shapes[1] == 0, "LDTILECFG: begins with another row than the first")?;
        let reserved = [&shapes[2..16], &shapes[32..48], &shapes[56..]];
        check(reserved.iter().all(|bytes| bytes.iter().all(|&byte| byte == 0)), "LDTILECFG: reserved bytes")?;
        for (idx, tile) in self.0.iter_mut().enumerate() {
            tile.n_rows = usize::from(shapes[48 + idx]);
            tile.row_bytes = usize::from(u16::from_le_bytes([shapes[16 + 2 * idx], shapes[17 + 2 * idx]]));
            check(
                tile.n_rows <= MAX_ROWS && tile.row_bytes <= MAX_ROW_BYTES,
                "LDTILECFG: a tile is too large",
            )?;
            check((tile.n_rows == 0) == (tile.row_bytes == 0), "LDTILECFG: half a shape")?;
        }
        Ok(())
    }

    fn shaped(&mut self, tile: usize) -> Result<&mut Tile, Refusal> {
        let tile = self.0.get_mut(tile).ok_or("AMX: there are eight tiles")?;
        check(tile.n_rows > 0, "AMX: a tile without a shape")?;
        check(tile.row_bytes % 4 == 0, "AMX: rows that are not whole quads")?;
        Ok(tile)
    }

    unsafe fn load(&mut self, tile: usize, from: Rows) -> Result<(), Refusal> {
        let tile = self.shaped(tile)?;
        tile.rows = Tile::NONE.rows;
        for (row, bytes) in tile.rows[..tile.n_rows].iter_mut().enumerate() {
            let at = from.row(row) as *const u8;
            // SAFETY: the caller's promise.
            unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), tile.row_bytes) };
        }
        Ok(())
    }

    unsafe fn store(&mut self, tile: usize, to: Rows) -> Result<(), Refusal> {
        let tile = self.shaped(tile)?;
        for (row, bytes) in tile.rows[..tile.n_rows].iter().enumerate() {
            let at = to.row(row) as *mut u8;
            // SAFETY: the caller's promise.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, tile.row_bytes) };
        }
        Ok(())
    }

    /// Row m, column n of the sums takes the products of quad k of row m of `a` and quad n of row k of `b`.
    fn multiply(&mut self, sums: usize, a: usize, b: usize) -> Result<(), Refusal> {
        check(sums != a && sums != b && a != b, "TDPBSSD: the same tile twice")?;
        let (a, b) = (*self.shaped(a)?, *self.shaped(b)?);
        let sums = self.shaped(sums)?;
        let fits = sums.n_rows == a.n_rows && sums.row_bytes == b.row_bytes && a.row_bytes / 4 == b.n_rows;
        check(fits, "TDPBSSD: shapes that do not fit together")?;
        for (m, row) in sums.rows[..sums.n_rows].iter_mut().enumerate() {
            for (n, sum) in row[..sums.row_bytes].as_chunks_mut().0.iter_mut().enumerate() {
                let mut total = i32::from_le_bytes(*sum);
                for k in 0..b.n_rows {
                    for (a, b) in a.quad(m, k).into_iter().zip(b.quad(k, n)) {
                        total = total.wrapping_add(i32::from(a.cast_signed()) * i32::from(b.cast_signed()));
                    }
                }
                *sum = total.to_le_bytes();
            }
        }
        Ok(())
    }
}
