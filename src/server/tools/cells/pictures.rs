//! Pictures that cells display, made fit for a reply: no larger than a model can see or a client accepts.
//!
//! Runs in: server, on its blocking threads. Pure. A picture is decoded within limits: a worker may have sent anything.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgba, codecs::jpeg::JpegEncoder};

use crate::protocol::{Display, Representation};

/// Pictures in one reply; further ones are in their files.
pub(crate) const MOST_PICTURES: usize = 6;
/// Characters of base64 that the pictures of one reply come to, at most.
pub(crate) const MOST_BASE64: usize = 480_000;
/// Longest edge, pixels: what is larger, models scale down themselves.
const MOST_EDGE: u32 = 1568;
/// A picture is not made smaller than that to fit; its file has it.
const LEAST_EDGE: u32 = 160;
/// Of what is decoded: pixels a side, bytes in memory.
const DECODED_EDGE: u32 = 32_000;
const DECODED_BYTES: u64 = 512 << 20;
/// JPEG quality of what does not fit as PNG.
const QUALITY: u8 = 82;
/// Bytes of what a picture is said to be.
const MOST_WORDS: usize = 100;
/// The best first; one picture of a display is shown.
const TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/// A picture as it goes into a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Its type, which need not be the original's.
    pub(crate) mime: &'static str,
    /// Width and height, pixels.
    pub(crate) size: (u32, u32),
    /// Its bytes.
    pub(crate) base64: String,
    /// What the code says that it is, in a line.
    pub(crate) what: String,
}

/// What the pictures are, a line each, for those who cannot see them.
pub(crate) fn lines(pictures: &[Picture]) -> Vec<String> {
    let line = |(index, picture): (usize, &Picture)| {
        let Picture { mime, size: (width, height), what, .. } = picture;
        let what = if what.is_empty() { String::new() } else { format!("{what}, ") };
        format!("{}: {what}{mime}, {width} x {height} pixels", index + 1)
    };
    pictures.iter().enumerate().map(line).collect()
}

/// Whether there is anything for [`prepare`] to do.
#[must_use]
pub(crate) fn any(displays: &[Display]) -> bool {
    displays.iter().any(|display| best(display).is_some())
}

/// The pictures for a reply, of the first displays that have some.
#[must_use]
pub(crate) fn prepare(displays: &[Display]) -> Vec<Picture> {
    let with_best = |display| best(display).map(|original| (display, original));
    let originals: Vec<(&Display, &Representation)> =
        displays.iter().filter_map(with_best).take(MOST_PICTURES).collect();
    let share = MOST_BASE64 / originals.len().max(1) / 4 * 3;
    let made = originals.into_iter().filter_map(|(display, original)| {
        Some(Picture { what: first_line(&display.text), ..fitted(&original.bytes, share)? })
    });
    made.collect()
}

fn first_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line[..line.floor_char_boundary(MOST_WORDS)].to_owned()
}

fn best(display: &Display) -> Option<&Representation> {
    TYPES.iter().find_map(|mime| display.data.iter().find(|data| data.mime == *mime && !data.bytes.is_empty()))
}

/// The picture as it is when that will do, else scaled down, else pressed harder; `None` when it is no picture.
fn fitted(bytes: &[u8], most: usize) -> Option<Picture> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let format = reader.format()?;
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    if width.max(height) <= MOST_EDGE && bytes.len() <= most {
        return Some(picture(mime(format)?, (width, height), bytes));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(DECODED_EDGE);
    limits.max_image_height = Some(DECODED_EDGE);
    limits.max_alloc = Some(DECODED_BYTES);
    limits.check_dimensions(width, height).ok()?;
    decoder.set_limits(limits).ok()?;
    let mut whole = DynamicImage::from_decoder(decoder).ok()?;
    let mut edge = width.max(height).min(MOST_EDGE);
    while edge >= LEAST_EDGE {
        if whole.width().max(whole.height()) > edge {
            whole = whole.thumbnail(edge, edge);
        }
        let small = smallest(&whole, format == ImageFormat::Jpeg, most);
        if small.is_some() {
            return small;
        }
        edge = edge * 2 / 3;
    }
    None
}

/// PNG, which keeps lines and letters sharp, or JPEG where that is too much.
fn smallest(image: &DynamicImage, is_photo: bool, most: usize) -> Option<Picture> {
    let mut bytes = Vec::new();
    if !is_photo {
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).ok()?;
        if bytes.len() <= most {
            return Some(picture("image/png", (image.width(), image.height()), &bytes));
        }
        bytes.clear();
    }
    let flat = on_white(image);
    flat.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY)).ok()?;
    (bytes.len() <= most).then(|| picture("image/jpeg", (image.width(), image.height()), &bytes))
}

/// JPEG knows no transparency; black letters on what was transparent would be lost on black.
fn on_white(image: &DynamicImage) -> DynamicImage {
    if !image.color().has_alpha() {
        return image.to_rgb8().into();
    }
    let mut pixels = image.to_rgba8();
    for Rgba([red, green, blue, alpha]) in pixels.pixels_mut() {
        let share = u16::from(*alpha);
        for channel in [red, green, blue] {
            let mixed = (u16::from(*channel) * share + 255 * (255 - share)) / 255;
            *channel = u8::try_from(mixed).unwrap_or(u8::MAX);
        }
        *alpha = u8::MAX;
    }
    DynamicImage::from(pixels).to_rgb8().into()
}

fn mime(format: ImageFormat) -> Option<&'static str> {
    let mime = format.to_mime_type();
    TYPES.into_iter().find(|known| *known == mime)
}

fn picture(mime: &'static str, size: (u32, u32), bytes: &[u8]) -> Picture {
    Picture { mime, size, base64: STANDARD.encode(bytes), what: String::new() }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, RgbaImage};

    use super::*;

    fn shown(mime: &str, bytes: Vec<u8>) -> Display {
        let data = vec![Representation { mime: mime.to_owned(), file: None, bytes }];
        Display {
            is_result: false,
            id: None,
            update: false,
            serial: 0,
            late: false,
            text: String::new(),
            metadata: String::new(),
            data,
        }
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), format).expect("encoded");
        bytes
    }

    /// Pixels that do not compress.
    fn noise(width: u32, height: u32) -> DynamicImage {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        RgbImage::from_fn(width, height, |_, _| Rgb([next(), next(), next()])).into()
    }

    fn decoded(picture: &Picture) -> DynamicImage {
        image::load_from_memory(&STANDARD.decode(&picture.base64).expect("base64")).expect("a picture")
    }

    #[test]
    fn a_small_picture_stays_as_it_is() {
        let bytes = encoded(&noise(40, 30), ImageFormat::Png);
        let pictures = prepare(&[shown("image/png", bytes.clone())]);
        assert_eq!(pictures, [picture("image/png", (40, 30), &bytes)]);
    }

    #[test]
    fn a_wide_picture_is_scaled_down_and_keeps_its_shape() {
        let wide = DynamicImage::from(RgbImage::from_pixel(4000, 1000, Rgb([200, 10, 10])));
        let pictures = prepare(&[shown("image/png", encoded(&wide, ImageFormat::Png))]);
        let small = decoded(&pictures[0]);
        assert_eq!((small.width(), small.height(), pictures[0].mime), (MOST_EDGE, 392, "image/png"));
        assert_eq!(small.to_rgb8().get_pixel(100, 100), &Rgb([200, 10, 10]));
    }

    #[test]
    fn pictures_that_do_not_compress_fit_together() {
        let bytes = encoded(&noise(1200, 900), ImageFormat::Png);
        let displays: Vec<Display> = (0..9).map(|_| shown("image/png", bytes.clone())).collect();
        let pictures = prepare(&displays);
        assert_eq!(pictures.len(), MOST_PICTURES);
        assert!(pictures.iter().map(|picture| picture.base64.len()).sum::<usize>() <= MOST_BASE64);
        assert_eq!(pictures[0].mime, "image/jpeg");
    }

    #[test]
    fn what_was_transparent_becomes_white_in_jpeg() {
        let clear = DynamicImage::from(RgbaImage::from_pixel(20, 20, Rgba([0, 0, 0, 0])));
        assert_eq!(on_white(&clear).to_rgb8().get_pixel(5, 5), &Rgb([255, 255, 255]));
    }

    #[test]
    fn what_is_no_picture_is_left_out() {
        let broken = encoded(&noise(2000, 10), ImageFormat::Png)[..200].to_vec();
        assert_eq!(prepare(&[shown("image/png", b"nothing".to_vec()), shown("image/png", broken)]), []);
    }
}
