use std::io::Write;

use proptest::prelude::*;

use super::*;

/// Text that compresses, longer than the windows and blocks of every codec.
fn text() -> Vec<u8> {
    let mut state = 7u32;
    let mut bytes = Vec::new();
    while bytes.len() < 300_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        write!(
            bytes,
            "{{\"page\": \"/{}\", \"ms\": {}}}",
            state >> 24,
            state % 97
        )
        .unwrap();
    }
    bytes
}

fn unpacked(codec: Codec, body: &[u8]) -> Result<Vec<u8>, String> {
    // Something stands in the buffer already, as when several batches share it.
    let mut into = Unpacked::over(b"leftovers of an earlier use".to_vec());
    into.append(b"before").unwrap();
    let mut unpacking = Unpacking::of(codec, body, &mut into)?;
    while unpacking.step(&mut into)? {}
    assert!(!unpacking.step(&mut into)?, "an end stays an end");
    let all = into.bytes();
    assert!(all.starts_with(b"before"));
    Ok(all[6..].to_vec())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As Java's producers write it: blocks of 32 KiB behind a header.
fn xerial(bytes: &[u8]) -> Vec<u8> {
    let mut out = XERIAL.to_vec();
    out.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    for block in bytes.chunks(32 << 10) {
        let packed = snap::raw::Encoder::new().compress_vec(block).unwrap();
        out.extend(u32::try_from(packed.len()).unwrap().to_be_bytes());
        out.extend(packed);
    }
    out
}

/// A frame of LZ4 with blocks of 64 KiB, linked or not, the last one uncompressed.
fn lz4_frame_of(bytes: &[u8], linked: bool) -> Vec<u8> {
    lz4_frame(bytes, linked, 4)
}

/// The same with blocks of `1 << (8 + 2 * size)` bytes.
fn lz4_frame(bytes: &[u8], linked: bool, size: u8) -> Vec<u8> {
    let mut out = LZ4_MAGIC.to_le_bytes().to_vec();
    out.extend([if linked { 0x40 } else { 0x60 }, size << 4, 0]);
    let blocks: Vec<&[u8]> = bytes.chunks(1 << (8 + 2 * size)).collect();
    let mut start = 0;
    for (number, block) in blocks.iter().enumerate() {
        if number + 1 == blocks.len() {
            let word = u32::try_from(block.len()).unwrap() | 0x8000_0000;
            out.extend(word.to_le_bytes());
            out.extend(*block);
        } else {
            let packed = if linked {
                let window = &bytes[start - start.min(LZ4_WINDOW)..start];
                lz4_flex::block::compress_with_dict(block, window)
            } else {
                lz4_flex::block::compress(block)
            };
            out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            out.extend(packed);
        }
        start += block.len();
    }
    out.extend([0; 4]);
    out
}

#[test]
fn blocks_of_lz4_have_every_size_that_there_is() {
    let bytes: Vec<u8> = (0..5_u32 << 20).map(|at| (at / 7 % 251) as u8).collect();
    for size in 4..=7 {
        let frame = lz4_frame(&bytes, false, size);
        assert!(
            unpacked(Codec::Lz4, &frame).as_ref() == Ok(&bytes),
            "{size}"
        );
    }
    for size in 0..4 {
        let mut frame = lz4_frame(b"records", false, 4);
        frame[5] = size << 4;
        assert!(unpacked(Codec::Lz4, &frame).is_err(), "{size}");
    }
}

fn every_form(bytes: &[u8]) -> Vec<(&'static str, Codec, Vec<u8>)> {
    vec![
        ("none", Codec::None, bytes.to_vec()),
        ("gzip", Codec::Gzip, gzip(bytes)),
        ("snappy", Codec::Snappy, {
            snap::raw::Encoder::new().compress_vec(bytes).unwrap()
        }),
        ("snappy of Java", Codec::Snappy, xerial(bytes)),
        ("lz4", Codec::Lz4, lz4_frame_of(bytes, false)),
        ("lz4, linked", Codec::Lz4, lz4_frame_of(bytes, true)),
        ("zstd", Codec::Zstd, {
            zstd::stream::encode_all(bytes, 1).unwrap()
        }),
    ]
}

#[test]
fn every_form_comes_back_whole() {
    let bytes = text();
    for (name, codec, body) in every_form(&bytes) {
        assert!(unpacked(codec, &body).as_ref() == Ok(&bytes), "{name}");
    }
}

#[test]
fn it_comes_in_steps_and_goes_on_in_another_buffer() {
    let bytes = text();
    for (name, codec, body) in every_form(&bytes) {
        let mut into = Unpacked::default();
        let mut unpacking = Unpacking::of(codec, &body, &mut into).unwrap();
        let (mut all, mut steps) = (Vec::new(), 0);
        while unpacking.step(&mut into).unwrap() {
            steps += 1;
            let filled = into.len();
            let kept = filled - filled / 3;
            let done = into.take();
            all.extend_from_slice(&done[..kept]);
            into.go_on(b"leftovers".to_vec(), &done[kept..filled]);
            assert!(into.bytes() == &done[kept..filled], "{name}");
        }
        all.extend_from_slice(into.bytes());
        assert!(all == bytes, "{name}");
        let at_once = matches!(name, "snappy" | "lz4, linked");
        assert!(at_once == (steps == 1), "{name}: {steps} steps");
    }
}

#[test]
fn what_is_cut_off_is_refused() {
    let bytes = text();
    for (name, codec, body) in every_form(&bytes).into_iter().skip(1) {
        for cut in [1, 3, body.len() / 3, body.len() - 5, body.len() - 1] {
            let got = unpacked(codec, &body[..cut]);
            assert!(got.as_ref() != Ok(&bytes), "{name} cut at {cut}");
        }
        let half = unpacked(codec, &body[..body.len() / 2]);
        assert!(half.is_err(), "{name}");
    }
}

#[test]
fn a_batch_that_grows_beyond_the_bound_is_refused() {
    let zeros = vec![0; MOST_UNPACKED + 1];
    for (name, codec, body) in [
        ("gzip", Codec::Gzip, gzip(&zeros)),
        ("snappy", Codec::Snappy, xerial(&zeros)),
        ("lz4", Codec::Lz4, lz4_frame_of(&zeros, false)),
        (
            "zstd",
            Codec::Zstd,
            zstd::stream::encode_all(&zeros[..], 1).unwrap(),
        ),
    ] {
        let refused = unpacked(codec, &body).unwrap_err();
        assert!(refused.contains("128 MiB"), "{name}: {refused}");
    }
    // A block that only says that it is large takes no room.
    let mut liar = Vec::new();
    liar.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(unpacked(Codec::Snappy, &liar).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_fatal(
        at in 0usize..2_000,
        bytes in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let whole: Vec<u8> = text().into_iter().take(5_000).collect();
        for (_, codec, mut body) in every_form(&whole) {
            for (offset, byte) in bytes.iter().enumerate() {
                let place = (at + offset) % body.len();
                body[place] = *byte;
            }
            let _ = unpacked(codec, &body);
        }
    }
}
