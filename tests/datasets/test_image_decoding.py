from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fisao_pipeline.datasets.image_decoding import UnreadableImageError, decode_image, pixel_digest


def encoded(image, encoding, **options):
    stream = BytesIO()
    image.save(stream, encoding, **options)
    stream.seek(0)
    return stream


def pixel(image, at=(4, 4)):
    return image.getpixel(at)


@pytest.mark.parametrize(
    ("image", "encoding", "expected"),
    [
        (Image.new("L", (8, 8), 90), "PNG", (90, 90, 90)),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", (254, 0, 0)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 127)), "PNG", (128, 128, 128)),
        (Image.new("RGB", (8, 8), (10, 20, 30)).quantize(4), "PNG", (10, 20, 30)),
        (Image.new("YCbCr", (8, 8), (128, 128, 128)), "JPEG", (128, 128, 128)),
    ],
    ids=["grey", "bilevel", "cmyk", "transparent", "half-transparent-grey", "palette", "ycbcr"],
)
def test_every_mode_becomes_rgb(image, encoding, expected):
    decoded = decode_image(encoded(image, encoding))
    assert decoded.mode == "RGB"
    assert np.allclose(pixel(decoded), expected, atol=2)


def test_a_transparent_palette_colour_becomes_white():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert pixel(decode_image(encoded(palette, "PNG", transparency=1))) == (255, 255, 255)
    assert pixel(decode_image(encoded(palette, "PNG"))) == (200, 0, 0)


@pytest.mark.parametrize("encoding", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(encoding):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), encoding))
    assert np.array_equal(np.asarray(decoded)[..., 0], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.0, 0.5, 1.0), (0, 128, 255)), ((-10.0, 0.0, 10.0), (0, 128, 255)), ((7.0,) * 3, (0,) * 3)],
)
def test_float_grey_is_scaled_by_its_range(values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert tuple(np.asarray(decode_image(encoded(image, "TIFF")))[0, :, 0]) == expected


def test_non_finite_pixels_are_refused():
    image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(UnreadableImageError, match="non-finite"):
        decode_image(encoded(image, "TIFF"))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to show it upright
    stored = Image.new("RGB", (16, 8), "white")
    stored.paste((255, 0, 0), (0, 0, 8, 8))
    decoded = decode_image(encoded(stored, "PNG", exif=exif))
    assert decoded.size == (8, 16)
    assert pixel(decoded, (4, 2)) == (255, 0, 0) and pixel(decoded, (4, 14)) == (255, 255, 255)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_leaves_the_picture_as_stored():
    decoded = decode_image(encoded(Image.new("RGB", (16, 8)), "JPEG", exif=b"Exif\x00\x00MM\x00\x2agarbage"))
    assert decoded.size == (16, 8)


@pytest.mark.parametrize("encoding", ["GIF", "WEBP", "PNG", "TIFF"])
def test_more_than_one_frame_is_refused(encoding):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    stream = encoded(frames[0], encoding, save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImageError, match=f"more than one frame: {encoding} with 3"):
        decode_image(stream)


def test_a_still_gif_and_a_phone_s_mpo_are_accepted():
    still = Image.new("RGB", (8, 8), "red")
    assert pixel(decode_image(encoded(still, "GIF"))) == (255, 0, 0)
    photo = decode_image(encoded(still, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]))
    assert photo.format == "MPO" and np.allclose(pixel(photo), (254, 0, 0), atol=2)


@pytest.mark.parametrize("encoding", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.2, 0.9])
def test_a_truncated_file_is_refused(encoding, kept):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, encoding).getvalue()
    with pytest.raises(UnreadableImageError, match=r"truncated or corrupt|not a readable image"):
        decode_image(BytesIO(whole[: int(len(whole) * kept)]))


def test_flipped_bits_in_the_pixel_data_of_a_png_are_refused():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    damaged = bytearray(encoded(noise, "PNG", compress_level=0).getvalue())
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(UnreadableImageError, match="truncated or corrupt"):
        decode_image(BytesIO(bytes(damaged)))


def test_too_many_pixels_are_refused_before_decoding():
    bomb = encoded(Image.new("1", (4000, 4000)), "PNG")
    with pytest.raises(UnreadableImageError, match="too many pixels: 4000 x 4000 is more than 1000000"):
        decode_image(bomb, max_pixels=1_000_000)


def test_more_pixels_than_pillow_allows_are_refused_too(monkeypatch):
    bomb = encoded(Image.new("1", (4000, 4000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        decode_image(bomb)


def test_formats_that_start_other_programs_are_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(UnreadableImageError, match="not a readable image"):
        decode_image(BytesIO(postscript))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))


def test_the_digest_is_of_the_picture_not_of_the_file():
    files = [encoded(NOISE, "PNG"), encoded(NOISE, "BMP"), encoded(NOISE, "PNG", compress_level=0)]
    assert len({pixel_digest(decode_image(file)) for file in files}) == 1
    changed = NOISE.copy()
    changed.putpixel((49, 29), (1, 2, 3))
    assert pixel_digest(changed) != pixel_digest(NOISE)
    flat = Image.new("RGB", (50, 30))
    assert pixel_digest(flat) != pixel_digest(Image.new("RGB", (30, 50))), "the same bytes in another shape"


def test_a_photo_stored_upright_and_one_turned_by_its_exif_are_one_picture():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = decode_image(encoded(NOISE.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif))
    assert pixel_digest(turned) == pixel_digest(NOISE)


def test_the_digest_does_not_depend_on_the_strips_it_is_taken_in(monkeypatch):
    whole = pixel_digest(NOISE)
    monkeypatch.setattr("fisao_pipeline.datasets.image_decoding._STRIP_PIXELS", 120)
    assert pixel_digest(NOISE) == whole
