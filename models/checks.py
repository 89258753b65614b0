"""Checks of the arguments with which networks are built and called."""

from collections.abc import Sequence

from torch import Tensor, nn

from scoresde.sde.checks import check_count, check_switch

Shape = tuple[int, int | None, int | None]
"""(C, H, W) of images, with None for sizes that are not fixed."""


def check_sizes(shape: Sequence[int | None], nf: int, ch_mult: Sequence[int], blocks: int) -> Shape:
    """Return the shape (C, H, W) of a network, refusing one that cannot be built.

    Raises:
        ValueError: A number is out of range, or a size does not divide.
    """
    sizes = [size for size in shape[1:] if size is not None]
    if len(shape) != 3 or shape[0] is None or min([shape[0], *sizes]) < 1:
        raise ValueError(f"shape must be (channels, height, width), each ≥ 1, got {tuple(shape)}")
    if nf < 2 or blocks < 1:
        raise ValueError(f"nf must be ≥ 2 and num_res_blocks ≥ 1, got {nf} and {blocks}")
    if len(ch_mult) == 0 or min(ch_mult) < 1:
        raise ValueError(f"ch_mult must hold one factor ≥ 1 per level, got {list(ch_mult)}")
    steps = len(ch_mult) - 1
    for size in sizes:
        if size % 2**steps:
            below = size - size % 2**steps
            use = f"{below}, {below + 2**steps}" if below else f"{2**steps}"
            raise ValueError(
                f"image size {size} is not divisible by 2^{steps} ({steps} downsamplings); "
                f"use {use}, or fewer levels"
            )
    return shape[0], shape[1], shape[2]


def check_classes(classes: int | None, noise_conditional: bool = True) -> None:
    """Refuse a number of classes that a network cannot have.

    Raises:
        ValueError: The number is not an integer ≥ 1, or the network has no noise embedding.
    """
    if classes is not None:
        check_count("classes", classes, 1)
        if not noise_conditional:
            raise ValueError(
                "classes are added to the embedding of the noise; use noise_conditional=true"
            )


def check_image_condition(
    channels: int | None, noise: bool, blocks: int, noise_conditional: bool
) -> None:
    """Refuse an image condition that a network cannot have.

    Raises:
        ValueError: Numbers out of range, or parts of an image condition without one.
    """
    check_count("encoder_blocks", blocks, 0)
    check_switch(noise, "condition_noise")
    if channels is not None:
        check_count("condition_channels", channels, 1)
    elif noise or blocks:
        name = "condition_noise" if noise else "encoder_blocks"
        raise ValueError(f"{name} belongs to an image condition; give condition_channels")
    if noise and not noise_conditional:
        raise ValueError(
            "condition_noise is added to the embedding of the noise; use noise_conditional=true"
        )


def check_seen(channels: int | None) -> None:
    """Raise ValueError if a network that got an image as its condition takes none."""
    if channels is None:
        raise ValueError(
            "this network takes no image as its condition; build it with condition_channels=C, or "
            "on a command line use condition=superres or another of images"
        )


def check_noise_told() -> None:
    """Raise ValueError for a noise level of the condition that a network does not take."""
    raise ValueError(
        "this network is not told the noise level of its condition; build it with "
        "condition_noise=true, or leave `level` out"
    )


def check_told(embedding: nn.Module | None, condition: object) -> nn.Module:
    """Return the embedding of a condition, refusing a condition if the network has none.

    Raises:
        ValueError: The network was built without classes.
    """
    if embedding is None:
        raise ValueError(
            f"this network takes no condition, got {type(condition).__name__}; build it with "
            "classes=K, or on a command line use condition=label"
        )
    return embedding


def check_input(x: Tensor, c_noise: Tensor, shape: Shape, steps: int) -> None:
    """Refuse images and noise levels that do not have a network's shape.

    Args:
        x: Images.
        c_noise: Noise levels.
        shape: (C, H, W) of the network; None where it takes any size that divides.
        steps: Number of times that the resolution is halved.

    Raises:
        ValueError: A wrong shape.
        TypeError: Images that are not floating point.
    """
    size = tuple(x.shape[1:])
    fits = x.ndim == 4 and all(
        want == got or (want is None and got % 2**steps == 0)
        for want, got in zip(shape, size, strict=True)
    )
    if not fits:
        nhwc = x.ndim == 4 and size[2] == shape[0] and shape[1:] in (size[:2], (None, None))
        if x.ndim == 4 and size[0] != shape[0] and not nhwc:
            raise ValueError(f"model has {shape[0]} input channels, data has {size[0]}")
        fix = "did you pass NHWC? Use x.permute(0, 3, 1, 2)" if nhwc else "build a network for it"
        free = f"a multiple of {2**steps}"
        expected = ", ".join(free if want is None else str(want) for want in shape)
        got = f"(N, {', '.join(map(str, size))})" if x.ndim == 4 else tuple(x.shape)
        raise ValueError(f"expected (N, {expected}) for this model, got {got}; {fix}")
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point images, got {x.dtype}; use x / 127.5 - 1")
    if c_noise.shape != x.shape[:1]:
        raise ValueError(f"c_noise must have shape ({len(x)},), got {tuple(c_noise.shape)}")


def attended(
    shape: Sequence[int | None],
    levels: int,
    resolutions: Sequence[int],
    chosen: Sequence[int] | None,
) -> list[int]:
    """The levels of a U-Net that have self-attention.

    Args:
        shape: (C, H, W), with None for sizes that are not fixed.
        levels: Number of levels.
        resolutions: Heights with attention.
        chosen: The levels themselves, if they are given.

    Raises:
        ValueError: Levels out of range, or none given for a size that is not fixed.
    """
    if chosen is not None:
        if any(level not in range(levels) for level in chosen):
            raise ValueError(f"attn_levels must be among 0 … {levels - 1}, got {list(chosen)}")
        return list(chosen)
    if shape[1] is None:
        raise ValueError("a network for any size of images needs attn_levels, which are not given")
    return [level for level in range(levels) if shape[1] >> level in resolutions]
