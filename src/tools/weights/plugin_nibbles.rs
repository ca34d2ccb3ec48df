//! The order of int4 weights in the workflow's two plugins for ONNX: `Int4GroupwiseGemmPlugin` and its V2.

/// Number of the nibble of output `n` and input `column` in `Int4GroupwiseGemmPlugin`'s order: 16-bit words
/// `[n / 4, k]`; word `64 kb + j` of a row holds four inputs of output `4 r + j / 16`.
pub fn interleaved(n: usize, column: usize, k: usize) -> usize {
    let (block, within) = (column / 64, column % 64);
    // within = 32 (f / 32) + 8 (p % 4) + 2 (p / 8) + (p % 8) / 4 with p = f % 32.
    let rest = within % 32;
    let p = rest / 8 + 4 * (rest % 2) + 8 * (rest % 8 / 2);
    let f = within / 32 * 32 + p;
    // f = (4 j + t) % 64 of the sixteen words of the output.
    let j = n % 4 * 16 + f / 4;
    ((n / 4) * k + 64 * block + j) * 4 + f % 4
}

/// The same in `Int4GroupwiseGemmPluginV2`'s order: tiles of 128 outputs and 64 inputs, 32-bit words.
pub fn tiled(n: usize, column: usize, k: usize) -> usize {
    let (tile_n, n) = (n / 128, n % 128);
    let (tile_k, column) = (column / 64, column % 64);
    let (p, n) = (n / 64, n % 64);
    let (high_n, n) = (n / 32, n % 32);
    let (kbl, column) = (column / 16, column % 16);
    let (high_k, column) = (column / 8, column % 8);
    let row = (tile_n * (k / 64) + tile_k) * 8 + kbl * 2 + p;
    let thread = n * 4 + column / 2;
    // Nibbles: k0, k0 + 8, then 32 outputs later, then the odd inputs.
    let nibble = column % 2 * 4 + high_n * 2 + high_k;
    (row * 128 + thread) * 8 + nibble
}
