//! Bodies: collected while they arrive, decoded on the way, never larger than they may be.

use std::io::{self, Write};

use bytes::Bytes;
use http::header::{self, HeaderMap};

use crate::Failure;

/// Bytes that are decoded at a time.
const PIECE: usize = 4096;

/// A body on its way in.
pub(super) struct Body {
    decoder: Decoder,
    limit: usize,
    decoded: bool,
    /// Whether a first byte has come.
    begun: bool,
}

enum Decoder {
    Plain(Bounded),
    Gzip(Box<flate2::write::MultiGzDecoder<Bounded>>),
    Zlib(Box<flate2::write::ZlibDecoder<Bounded>>),
    Raw(Box<flate2::write::DeflateDecoder<Bounded>>),
    /// A deflated body before its first byte, which tells its two forms apart.
    Deflate(Bounded),
    Brotli(Box<brotli_decompressor::DecompressorWriter<Bounded>>),
}

/// Takes bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit.saturating_sub(self.bytes.len()) {
            self.over = true;
            return Err(io::Error::other("too large"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Body {
    /// A body that comes with these headers; encoded as they say when `decode`.
    pub(super) fn new(headers: &HeaderMap, limit: usize, decode: bool) -> Self {
        let into = Bounded { bytes: Vec::new(), limit, over: false };
        let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        let encoding = encoding.filter(|_| decode).map(|text| text.trim().to_ascii_lowercase());
        let decoder = match encoding.as_deref() {
            Some("gzip" | "x-gzip") => Decoder::Gzip(Box::new(flate2::write::MultiGzDecoder::new(into))),
            Some("deflate") => Decoder::Deflate(into),
            Some("br") => Decoder::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(into, 4096))),
            _ => Decoder::Plain(into),
        };
        let decoded = !matches!(decoder, Decoder::Plain(_));
        Self { decoder, limit, decoded, begun: false }
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let (Decoder::Deflate(into), Some(first)) = (&mut self.decoder, bytes.first()) {
            let into = std::mem::replace(into, Bounded { bytes: Vec::new(), limit: 0, over: false });
            // RFC 9110 means zlib's form, whose first byte names method 8; some servers send the bare one.
            self.decoder = if first & 0x0f == 8 {
                Decoder::Zlib(Box::new(flate2::write::ZlibDecoder::new(into)))
            } else {
                Decoder::Raw(Box::new(flate2::write::DeflateDecoder::new(into)))
            };
        }
        // RFC 7932, section 9.1, has no window of this size; decoders that know of larger ones would set aside a
        // gigabyte for it, out of sight of our limit.
        let large_window = bytes.first().is_some_and(|first| first & 0x7f == 0x11);
        if matches!(self.decoder, Decoder::Brotli(_)) && !std::mem::replace(&mut self.begun, true) && large_window {
            return Err(self.failure());
        }
        // Little by little: what a piece becomes is counted before the next one is decoded.
        bytes.chunks(PIECE).try_for_each(|piece| self.decode(piece)).map_err(|_| self.failure())
    }

    fn decode(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.decoder {
            Decoder::Plain(into) | Decoder::Deflate(into) => into.write_all(bytes),
            Decoder::Gzip(decoder) => decoder.write_all(bytes),
            Decoder::Zlib(decoder) => decoder.write_all(bytes),
            Decoder::Raw(decoder) => decoder.write_all(bytes),
            Decoder::Brotli(decoder) => decoder.write_all(bytes),
        }
    }

    /// Bytes collected so far.
    pub(super) fn len(&mut self) -> usize {
        self.collected().bytes.len()
    }

    /// The whole body, decoded; its headers no longer say that it is encoded.
    pub(super) fn finish(mut self, headers: &mut HeaderMap) -> Result<Bytes, Failure> {
        let finished = match &mut self.decoder {
            Decoder::Plain(_) | Decoder::Deflate(_) => Ok(()),
            Decoder::Gzip(decoder) => decoder.try_finish(),
            Decoder::Zlib(decoder) => decoder.try_finish(),
            Decoder::Raw(decoder) => decoder.try_finish(),
            Decoder::Brotli(decoder) => decoder.close(),
        };
        finished.map_err(|_| self.failure())?;
        if self.decoded {
            headers.remove(header::CONTENT_ENCODING);
            headers.remove(header::CONTENT_LENGTH);
        }
        Ok(Bytes::from(std::mem::take(&mut self.collected().bytes)))
    }

    fn failure(&mut self) -> Failure {
        if self.collected().over {
            return Failure::too_large(format!("the response's body has more than {} bytes", self.limit));
        }
        Failure::unavailable("the response's body is not encoded as its headers say")
    }

    fn collected(&mut self) -> &mut Bounded {
        match &mut self.decoder {
            Decoder::Plain(into) | Decoder::Deflate(into) => into,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zlib(decoder) => decoder.get_mut(),
            Decoder::Raw(decoder) => decoder.get_mut(),
            Decoder::Brotli(decoder) => decoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brotli_stream_that_asks_for_a_window_of_a_gigabyte_is_refused_at_its_first_byte() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "br".parse().unwrap());
        for first in [0x11, 0x91] {
            assert!(Body::new(&headers, 1 << 20, true).take(&[first, 30, 0, 0]).is_err());
        }
        assert!(Body::new(&headers, 1 << 20, true).take(&[0x0b, 0x02, 0x80]).is_ok());
    }
}
