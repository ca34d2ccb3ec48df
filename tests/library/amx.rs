//! The emulator of AMX with which the products are tried where the processor has none: it refuses what the processor
//! would, and nothing but the instructions of AMX.

use crate::support::amx::decode::{Instruction, Rows};
use crate::support::amx::{Tiles, emulated};

/// The operand of LDTILECFG with rows and bytes a row of the first tiles.
fn shapes(tiles: &[(u8, u8)]) -> [u8; 64] {
    let mut shapes = [0; 64];
    shapes[0] = 1;
    for (idx, &(n_rows, row_bytes)) in tiles.iter().enumerate() {
        (shapes[48 + idx], shapes[16 + 2 * idx]) = (n_rows, row_bytes);
    }
    shapes
}

#[test]
fn products_are_those_of_the_manual() {
    let mut tiles = Tiles::RELEASED;
    tiles.configure(&shapes(&[(2, 8), (2, 4), (1, 8)])).unwrap();
    let (a, b, mut sums) =
        ([[1_i8, -2, 3, -4], [5, 6, 7, -128]], [[1_i8; 4], [-128, 0, 10, 127]], [[7_i32; 2]; 2]);
    let rows = |start: u64, stride| Rows { start, stride };
    for instruction in [
        Instruction::Zero { tile: 0 },
        Instruction::Load { tile: 1, from: rows(a.as_ptr() as u64, 4) },
        Instruction::Load { tile: 2, from: rows(b.as_ptr() as u64, 0) },
        Instruction::Multiply { sums: 0, a: 1, b: 2 },
        Instruction::Store { tile: 0, to: rows(sums.as_mut_ptr() as u64, 8) },
    ] {
        // SAFETY: the arrays have the shapes.
        unsafe { tiles.run(instruction) }.unwrap();
    }
    assert_eq!(sums, [[-2, -606], [-110, -16826]]);
}

#[test]
fn what_the_processor_refuses_is_refused() {
    let bytes = |at: usize, byte: u8| {
        let mut shapes = shapes(&[(16, 64)]);
        shapes[at] = byte;
        shapes
    };
    // Palette, first row, reserved, 65 bytes a row, 17 rows, no rows, a ninth tile.
    for (at, byte) in [(0, 2), (1, 1), (2, 1), (16, 65), (17, 1), (48, 17), (48, 0), (32, 64), (56, 16)] {
        let mut registers = Tiles::RELEASED;
        assert!(registers.configure(&bytes(at, byte)).is_err(), "{at} {byte}");
    }
    let multiply = |tiles: &[(u8, u8)], [sums, a, b]: [usize; 3]| {
        let mut registers = Tiles::RELEASED;
        registers.configure(&shapes(tiles)).unwrap();
        // SAFETY: no operand is in memory.
        unsafe { registers.run(Instruction::Multiply { sums, a, b }) }
    };
    let fitting = [(16, 64), (16, 32), (8, 64)];
    assert_eq!(multiply(&fitting, [0, 1, 2]), Ok(()));
    for registers in [[0, 2, 1], [0, 0, 2], [0, 1, 1], [0, 1, 3], [0, 1, 8]] {
        assert!(multiply(&fitting, registers).is_err(), "{registers:?}");
    }
    for tiles in [[(15, 64), (16, 32), (8, 64)], [(16, 64), (16, 28), (8, 64)], [(16, 60), (16, 32), (8, 64)]]
    {
        assert!(multiply(&tiles, [0, 1, 2]).is_err(), "{tiles:?}");
    }
}

/// The emulator leaves every other illegal instruction to the system.
#[test]
fn another_illegal_instruction_still_ends_a_program() {
    if emulated().is_none() {
        return;
    }
    // SAFETY: the child does nothing but stop.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const NO_CORE);
            std::arch::asm!("ud2", options(noreturn));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGILL, "{status:#x}");
}

static NO_CORE: libc::rlimit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
