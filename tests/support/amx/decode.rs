//! The instructions as bytes: a VEX prefix of three, an opcode, ModRM, and what ModRM asks for.

/// An instruction with its operands: numbers of registers, addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    /// LDTILECFG
    Configure { from: u64 },
    /// TILERELEASE
    Release,
    /// TILEZERO
    Zero { tile: usize },
    /// TILELOADD
    Load { tile: usize, from: Rows },
    /// TILESTORED
    Store { tile: usize, to: Rows },
    /// TDPBSSD: `sums += a b`
    Multiply { sums: usize, a: usize, b: usize },
}

/// Rows of a tile in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub start: u64,
    /// Bytes from one row to the next.
    pub stride: u64,
}

impl Rows {
    /// The address of a row.
    pub fn row(self, row: usize) -> u64 {
        self.start.wrapping_add((row as u64).wrapping_mul(self.stride))
    }
}

/// General registers of a stopped thread, as `mcontext_t` has them.
pub type Registers = [libc::greg_t; 23];

/// Where the instruction pointer stands.
pub const RIP: usize = place(libc::REG_RIP);

const fn place(register: libc::c_int) -> usize {
    register.unsigned_abs() as usize
}

/// Where the register of each number stands.
const PLACES: [usize; 16] = [
    place(libc::REG_RAX),
    place(libc::REG_RCX),
    place(libc::REG_RDX),
    place(libc::REG_RBX),
    place(libc::REG_RSP),
    place(libc::REG_RBP),
    place(libc::REG_RSI),
    place(libc::REG_RDI),
    place(libc::REG_R8),
    place(libc::REG_R9),
    place(libc::REG_R10),
    place(libc::REG_R11),
    place(libc::REG_R12),
    place(libc::REG_R13),
    place(libc::REG_R14),
    place(libc::REG_R15),
];

/// The instruction at an address, and the address of the next one. None for every other instruction.
///
/// # Safety
/// An instruction lies at the address.
pub unsafe fn decode(at: *const u8, registers: &Registers) -> Option<(Instruction, libc::greg_t)> {
    let mut bytes = Bytes { next: at };
    // SAFETY: no byte is read unless those before it say that it belongs to the instruction.
    let instruction = unsafe { bytes.instruction(registers) }?;
    Some((instruction, bytes.next as libc::greg_t))
}

struct Bytes {
    next: *const u8,
}

impl Bytes {
    /// # Safety
    /// The instruction goes on.
    unsafe fn take<const N: usize>(&mut self) -> [u8; N] {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.next.cast::<[u8; N]>().read() };
        self.next = self.next.wrapping_add(N);
        bytes
    }

    /// # Safety
    /// As of [`decode`].
    unsafe fn instruction(&mut self, registers: &Registers) -> Option<Instruction> {
        const VEX: u8 = 0xc4;
        const MAP_0F38: u8 = 2;
        // Which of the old prefixes a VEX prefix stands for.
        const NP: u8 = 0;
        const F3: u8 = 2;
        const F2: u8 = 3;
        // SAFETY: a prefix is followed by two more bytes, an opcode and ModRM.
        let [first, second, opcode, modrm] = unsafe {
            if self.take::<1>() != [VEX] {
                return None;
            }
            self.take()
        };
        // These bits are stored inverted.
        let (r, x, b) = (!first >> 7, !first >> 6 & 1, !first >> 5 & 1);
        let (map, wide, third, long, pp) =
            (first & 31, second >> 7, !second >> 3 & 15, second >> 2 & 1, second & 3);
        if map != MAP_0F38 || wide != 0 || long != 0 {
            return None;
        }
        let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7 | r << 3), modrm & 7);
        let is_register = mode == 3;
        let has_sib = !is_register && rm == 4;
        match (opcode, pp) {
            (0x5e, F2) if is_register => {
                Some(Instruction::Multiply { sums: reg, a: usize::from(rm | b << 3), b: usize::from(third) })
            }
            _ if third != 0 => None,
            (0x49, NP) if modrm == 0xc0 => Some(Instruction::Release),
            (0x49, NP) if !is_register && reg == 0 => {
                // SAFETY: ModRM asks for what is read.
                let Rows { start, stride } = unsafe { self.memory(mode, rm, x, b, registers) };
                Some(Instruction::Configure { from: start.wrapping_add(stride) })
            }
            (0x49, F2) if is_register && rm == 0 => Some(Instruction::Zero { tile: reg }),
            (0x4b, F2) if has_sib => {
                // SAFETY: as above.
                Some(Instruction::Load { tile: reg, from: unsafe { self.memory(mode, rm, x, b, registers) } })
            }
            (0x4b, F3) if has_sib => {
                // SAFETY: as above.
                Some(Instruction::Store { tile: reg, to: unsafe { self.memory(mode, rm, x, b, registers) } })
            }
            _ => None,
        }
    }

    /// Base and displacement as the start, the index times its scale as the stride.
    ///
    /// # Safety
    /// The bytes that ModRM asks for follow.
    unsafe fn memory(&mut self, mode: u8, rm: u8, x: u8, b: u8, registers: &Registers) -> Rows {
        let register = |number: u8| registers[PLACES[usize::from(number)]].cast_unsigned();
        // SAFETY: the caller's promise.
        unsafe {
            let (mut stride, mut base) = (0, rm);
            if rm == 4 {
                let [sib] = self.take();
                let index = sib >> 3 & 7 | x << 3;
                stride = if index == 4 { 0 } else { register(index) << (sib >> 6) };
                base = sib & 7;
            }
            // Without a displacement the number of the base pointer means none of the registers.
            let is_bare = mode == 0 && base == 5;
            let displacement = match mode {
                1 => i32::from(i8::from_le_bytes(self.take())),
                0 if !is_bare => 0,
                _ => i32::from_le_bytes(self.take()),
            };
            let from = match is_bare {
                true if rm == 5 => self.next as u64,
                true => 0,
                false => register(base | b << 3),
            };
            Rows { start: from.wrapping_add_signed(i64::from(displacement)), stride }
        }
    }
}
