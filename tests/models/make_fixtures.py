"""Makes the files in `fixtures/`: what another engine computes with the published architectures and few channels.

    python -m venv /tmp/opencv4 && /tmp/opencv4/bin/pip install "opencv-contrib-python-headless<5"
    /tmp/opencv4/bin/python tests/models/make_fixtures.py

OpenCV 4 runs Caffe models, ROIPooling included (OpenCV 5 no longer does). This writes `inputs.npz` with image0,
image1 ... (uint8 RGB, [H, W, 3]) and rois0 ... (inclusive corners x1 y1 x2 y2 in pixels, [R, 4]), and for each of S, M,
L and L compressed by truncated SVD a `.prototxt`, a `.caffemodel` with random weights (in one of the forms met in the
wild, see `encode_model`) and an `.npz` with

    weights   <layer>/weight, <layer>/bias as Caffe stores them; fc6_L and fc7_L have no bias
    results   <top>/0 ...: conv5 (after ReLU), roi_pool5, cls_score and bbox_pred for each image, as Caffe stores them

OpenCV departs from Caffe in its LRN, which takes no notice of `k` and computes with 1; so the network it is given here
has the equal k^-beta * LRN(alpha / k, k = 1). Its RoI pooling adds a bin's offset to the RoI's start before it rounds,
where Caffe rounds the offset alone: the bins are the same for all RoIs of up to 130 cells in 6 or 7 bins.
"""

import struct
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).parent / "fixtures"
PIXEL_MEAN = np.array((102.9801, 115.9465, 122.7717), np.float32)  # BGR
IMAGE_SIZES = ((61, 93), (78, 130), (99, 68))
CLASSES = 4  # background included

LRN_BETA = 0.75
# In order: ("conv", name, channels, kernel, stride, pad, groups), ("pool", kernel, stride, pad), ("lrn", alpha, k).
NETWORKS = {
    "caffenet": [
        ("conv", "conv1", 8, 11, 4, 5, 1), ("pool", 3, 2, 1), ("lrn", 1e-4, 1),
        ("conv", "conv2", 10, 5, 1, 2, 2), ("pool", 3, 2, 1), ("lrn", 1e-4, 1),
        ("conv", "conv3", 8, 3, 1, 1, 1), ("conv", "conv4", 8, 3, 1, 1, 2), ("conv", "conv5", 6, 3, 1, 1, 2),
        ("roi", 6),
    ],
    "vgg_cnn_m_1024": [
        ("conv", "conv1", 8, 7, 2, 0, 1), ("lrn", 5e-4, 2), ("pool", 3, 2, 0),
        ("conv", "conv2", 8, 5, 2, 1, 1), ("lrn", 5e-4, 2), ("pool", 3, 2, 0),
        ("conv", "conv3", 8, 3, 1, 1, 1), ("conv", "conv4", 8, 3, 1, 1, 1), ("conv", "conv5", 6, 3, 1, 1, 1),
        ("roi", 6),
    ],
    "vgg16": [
        ("conv", "conv1_1", 4, 3, 1, 1, 1), ("conv", "conv1_2", 4, 3, 1, 1, 1), ("pool", 2, 2, 0),
        ("conv", "conv2_1", 5, 3, 1, 1, 1), ("conv", "conv2_2", 5, 3, 1, 1, 1), ("pool", 2, 2, 0),
        *(("conv", f"conv3_{i}", 6, 3, 1, 1, 1) for i in (1, 2, 3)), ("pool", 2, 2, 0),
        *(("conv", f"conv4_{i}", 7, 3, 1, 1, 1) for i in (1, 2, 3)), ("pool", 2, 2, 0),
        *(("conv", f"conv5_{i}", 6, 3, 1, 1, 1) for i in (1, 2, 3)),
        ("roi", 7),
    ],
}  # fmt: skip
NETWORKS["vgg16_svd"] = NETWORKS["vgg16"]
# Layer by layer up to the two last ones: name and outputs.
HEADS = {
    "caffenet": (("fc6", 12), ("fc7", 9)),
    "vgg_cnn_m_1024": (("fc6", 12), ("fc7", 8)),
    "vgg16": (("fc6", 10), ("fc7", 9)),
    "vgg16_svd": (("fc6_L", 7), ("fc6_U", 10), ("fc7_L", 4), ("fc7_U", 9)),
}
FORMS = {"caffenet": "current", "vgg_cnn_m_1024": "old", "vgg16": "old blobs", "vgg16_svd": "current"}


def describe(name: str, for_opencv: bool = False) -> tuple[str, dict[str, tuple[int, ...]], dict[str, str]]:
    """Prototxt text, shapes of all weights as Caffe stores them, and the layer that gives each result."""
    height, width = IMAGE_SIZES[0]
    text = [f'name: "{name}"']
    for blob, dims in (("data", (1, 3, height, width)), ("rois", (1, 5))):
        text.append(f'input: "{blob}" input_shape {{ {" ".join(f"dim: {d}" for d in dims)} }}')
    shapes, top, channels = {}, "data", 3

    def add(kind: str, layer: str, bottoms: list[str], out: str, parameters: str = "") -> None:
        ends = " ".join(f'bottom: "{b}"' for b in bottoms)
        text.append(f'layer {{ name: "{layer}" type: "{kind}" {ends} top: "{out}" {parameters} }}')

    stage = 0
    for kind, *values in NETWORKS[name]:
        if kind == "conv":
            layer, outputs, kernel, stride, pad, groups = values
            shapes[layer] = (outputs, channels // groups, kernel, kernel)
            numbers = f"num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad} group: {groups}"
            add("Convolution", layer, [top], layer, f"convolution_param {{ {numbers} }}")
            last_relu = layer.replace("conv", "relu")
            add("ReLU", last_relu, [layer], layer)
            top, channels, stage = layer, outputs, int(layer[4])
        elif kind == "pool":
            kernel, stride, pad = values
            numbers = f"pool: MAX kernel_size: {kernel} stride: {stride} pad: {pad}"
            add("Pooling", f"pool{stage}", [top], f"pool{stage}", f"pooling_param {{ {numbers} }}")
            top = f"pool{stage}"
        elif kind == "lrn":
            alpha, k = values
            numbers = f"alpha: {alpha / k if for_opencv else alpha} k: {1 if for_opencv else k}"
            norm = f"norm{stage}"
            add("LRN", norm, [top], norm, f"lrn_param {{ local_size: 5 {numbers} beta: {LRN_BETA} }}")
            top = norm
            if for_opencv:
                top = f"scaled{stage}"
                add("Power", top, [norm], top, f"power_param {{ scale: {k**-LRN_BETA} }}")
        else:
            (bins,) = values
            numbers = f"pooled_w: {bins} pooled_h: {bins} spatial_scale: 0.0625"
            add("ROIPooling", "roi_pool5", [top, "rois"], "roi_pool5", f"roi_pooling_param {{ {numbers} }}")
            top, inputs = "roi_pool5", channels * bins * bins
    for layer, width in HEADS[name]:
        shapes[layer], inputs = (width, inputs), width
        linear = layer.endswith("_L")
        numbers = f"num_output: {width}" + (" bias_term: false" if linear else "")
        add("InnerProduct", layer, [top], layer, f"inner_product_param {{ {numbers} }}")
        top = layer
        if not linear:
            add("ReLU", f"relu{layer[2]}", [layer], layer)
            add("Dropout", f"drop{layer[2]}", [layer], layer, "dropout_param { dropout_ratio: 0.5 }")
    for layer, width in (("cls_score", CLASSES), ("bbox_pred", 4 * CLASSES)):
        shapes[layer] = (width, inputs)
        add("InnerProduct", layer, [top], layer, f"inner_product_param {{ num_output: {width} }}")
    results = {"conv5": last_relu, **{layer: layer for layer in ("roi_pool5", "cls_score", "bbox_pred")}}
    return "\n".join(text) + "\n", shapes, results


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: an integer, or anything that has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def encode_blob(array: np.ndarray, with_shape: bool) -> bytes:
    """`BlobProto`, with a shape (7) or with the old num, channels, height and width (1 ... 4)."""
    data = field(5, struct.pack(f"<{array.size}f", *array.ravel()))
    if with_shape:
        return field(7, field(1, b"".join(varint(d) for d in array.shape))) + data
    dims = (1,) * (4 - array.ndim) + array.shape
    return b"".join(field(i, d) for i, d in enumerate(dims, start=1)) + data


def encode_model(name: str, weights: dict[str, tuple[np.ndarray, ...]], form: str) -> bytes:
    """`NetParameter`. Forms: "current" (`layer`, shaped blobs), "old blobs" (`layer`, 4-D blobs), "old" (`layers`)."""
    model = field(1, name.encode())
    for layer, blobs in weights.items():
        encoded = [encode_blob(blob, with_shape=form == "current") for blob in blobs]
        convolution = blobs[0].ndim == 4
        if form == "old":
            kind = field(5, 4 if convolution else 14)
            model += field(2, field(4, layer.encode()) + kind + b"".join(field(6, blob) for blob in encoded))
        else:
            kind = field(2, b"Convolution" if convolution else b"InnerProduct")
            model += field(100, field(1, layer.encode()) + kind + b"".join(field(7, blob) for blob in encoded))
    return model


def draw_weights(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> dict:
    """Weights that keep activations about as large as pixels, where the LRN's denominators are far from constant."""
    weights = {}
    for layer, shape in shapes.items():
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        weights[layer] = (rng.normal(0, deviation, shape).astype(np.float32),)
        if not layer.endswith("_L"):
            weights[layer] += (rng.normal(0, 10, shape[0]).astype(np.float32),)
    return weights


def draw_rois(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Inclusive corners: inside, at and over the border, outside, a single pixel, and halves that must be rounded."""
    corners = np.sort(rng.uniform(0, 1, (4, 2, 2)), axis=1) * (width - 1, height - 1)
    fixed = [
        (0, 0, width - 1, height - 1),
        (20, 30, 20, 30),
        (8, 24, 40, 56),  # 0.5, 1.5, 2.5 and 3.5 cells
        (-8, -24, 24, 40),
        (-60.5, -40.25, 30, 35),
        (30, 20, width + 90, height + 55.5),
        (-300, 10, width + 300, 50),
        (-800, -800, 96, 96),  # 57 cells: in float32 seven bins of 57 / 7 reach a cell further
        (-100, -90, -40, -30),
        (width + 40, 10, width + 90, 60),
    ]
    return np.concatenate([corners.reshape(4, 4).astype(np.float32), np.array(fixed, np.float32)])


def run(text: str, model: bytes, image: np.ndarray, rois: np.ndarray, results: dict[str, str]) -> dict[str, np.ndarray]:
    """OpenCV's outputs for one image."""
    net = cv2.dnn.readNetFromCaffe(*(np.frombuffer(part, np.uint8) for part in (text.encode(), model)))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.enableFusion(False)
    net.enableWinograd(False)  # exact to float32
    pixels = image[..., ::-1].astype(np.float32) - PIXEL_MEAN
    net.setInput(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), "data")
    net.setInput(np.concatenate([np.zeros((len(rois), 1), np.float32), rois], axis=1), "rois")
    return dict(zip(results, (out.copy() for out in net.forward(list(results.values()))), strict=True))


def main() -> None:
    """Writes all fixtures."""
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in IMAGE_SIZES]
    rois = [draw_rois(*size, rng) for size in IMAGE_SIZES]
    named = [(f"image{i}", image) for i, image in enumerate(images)] + [(f"rois{i}", r) for i, r in enumerate(rois)]
    np.savez_compressed(FOLDER / "inputs.npz", **dict(named))
    for name in NETWORKS:
        text, shapes, results = describe(name)
        weights = draw_weights(shapes, rng)
        model = encode_model(name, weights, FORMS[name])
        (FOLDER / f"{name}.prototxt").write_text(text)
        (FOLDER / f"{name}.caffemodel").write_bytes(model)
        arrays = {}
        for layer, blobs in weights.items():
            arrays |= {f"{layer}/{part}": blob for part, blob in zip(("weight", "bias"), blobs, strict=False)}
        text, _, _ = describe(name, for_opencv=True)
        for i, pair in enumerate(zip(images, rois, strict=True)):
            arrays |= {f"{top}/{i}": value for top, value in run(text, model, *pair, results).items()}
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
