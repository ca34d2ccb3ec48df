//! Frames on the channel between the two processes: a length of four bytes, then so many bytes.

use std::io::{self, ErrorKind, Read, Write};

/// More than any frame has: a prompt's text twice, its tokens, and what a template's system prompt may be.
pub const MAX_FRAME: usize = 32 << 20;

/// The frame's bytes with its length in front.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), body].concat()
}

/// Writes a frame to a channel that waits.
///
/// # Errors
/// The system's.
pub fn write_frame(mut channel: impl Write, body: &[u8]) -> io::Result<()> {
    channel.write_all(&framed(body))
}

/// Reads a frame from a channel that waits; none when the other end is closed.
///
/// # Errors
/// The system's, and `InvalidData` above [`MAX_FRAME`].
pub fn read_frame(mut channel: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match channel.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let mut body = vec![0; checked_length(length)?];
    channel.read_exact(&mut body)?;
    Ok(Some(body))
}

/// A frame that arrives piece by piece.
#[derive(Default)]
pub struct Arriving {
    bytes: Vec<u8>,
}

impl Arriving {
    /// Takes bytes; says whether the frame is whole.
    ///
    /// # Errors
    /// `InvalidData` above [`MAX_FRAME`].
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.bytes.extend(bytes);
        let Some((length, body)) = self.bytes.split_first_chunk() else { return Ok(false) };
        Ok(body.len() >= checked_length(*length)?)
    }

    pub fn into_body(mut self) -> Vec<u8> {
        self.bytes.split_off(size_of::<u32>().min(self.bytes.len()))
    }
}

fn checked_length(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let mut channel = Vec::new();
        for body in [&b""[..], b"abc"] {
            write_frame(&mut channel, body).unwrap();
        }
        let mut rest = channel.as_slice();
        assert_eq!(read_frame(&mut rest).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(read_frame(&mut rest).unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(read_frame(&mut rest).unwrap(), None);
        let mut arriving = Arriving::default();
        let is_whole: Vec<bool> =
            framed(b"abc").chunks(2).map(|bytes| arriving.push(bytes).unwrap()).collect();
        assert_eq!(is_whole, [false, false, false, true]);
        assert_eq!(arriving.into_body(), b"abc");
        assert!(read_frame(&[255, 255, 255, 255, 0][..]).is_err());
        assert!(Arriving::default().push(&[255; 4]).is_err());
    }
}
