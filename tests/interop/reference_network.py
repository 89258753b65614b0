"""score-SDE's NCSN++ and DDPM run straight from their tensors: an oracle without our modules.

It walks the list `all_modules` of a checkpoint in the order in which it was constructed, by the
fields of a configuration, with plain functions and upfirdn written as in StyleGAN2's appendix.
"""

import math

import torch
import torch.nn.functional as F


def upfirdn(x, taps, up=1, down=1, pads=(0, 0)):
    """upfirdn: zero insertion, padding, convolution with k kᵀ/(Σk)² of gain up², decimation."""
    k = torch.tensor(taps, dtype=x.dtype)
    k = torch.outer(k, k) / k.sum() ** 2 * up**2
    b, c, h, w = x.shape
    wide = x.new_zeros(b, c, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, (*pads, *pads))
    kernel = k.flip(0, 1).expand(c, 1, *k.shape)
    return F.conv2d(wide, kernel, groups=c)[:, :, ::down, ::down]


class Reference:
    """One network: a state of tensors named all_modules.N.…, and its configuration."""

    def __init__(self, state, config):
        self.state, self.model = state, config["model"]
        self.size = config["data"]["image_size"]
        self.number = 0

    def take(self):
        """The tensors of the next module."""
        prefix = f"all_modules.{self.number}."
        self.number += 1
        return {
            name.removeprefix(prefix): value.double()
            for name, value in self.state.items()
            if name.startswith(prefix)
        }

    # ------------------------------------------------------------ pieces

    def norm(self, x, weight, bias):
        ddpm = self.model["name"] == "ddpm"
        groups = 32 if ddpm else min(x.shape[1] // 4, 32)
        return F.group_norm(x, groups, weight, bias, eps=1e-6)

    def merge(self, x, h):
        rescale = self.model["name"] != "ddpm" and self.model["skip_rescale"]
        return (x + h) / math.sqrt(2) if rescale else x + h

    def resampled(self, x, up):
        """Resample without weights, by the FIR filter, or by nearest neighbour and mean."""
        taps = self.model.get("fir_kernel")
        if not self.model.get("fir"):
            return F.interpolate(x, scale_factor=2.0) if up else F.avg_pool2d(x, 2)
        p = len(taps) - 2
        if up:
            return upfirdn(x, taps, up=2, pads=((p + 1) // 2 + 1, p // 2))
        return upfirdn(x, taps, down=2, pads=((p + 1) // 2, p // 2))

    def learned(self, x, up):
        """Resample with a 3 × 3 convolution."""
        m = self.take()
        if self.model.get("fir"):
            taps, weight = self.model["fir_kernel"], m["Conv2d_0.weight"]
            assert not up, "its own way up with a filter reverses a tensor, which torch cannot"
            p = len(taps) - 2 + 2
            h = upfirdn(x, taps, pads=((p + 1) // 2, p // 2))
            return F.conv2d(h, weight, m["Conv2d_0.bias"], stride=2)
        weight, bias = m["Conv_0.weight"], m["Conv_0.bias"]
        if up:
            return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)

    def block(self, x, emb, resample=None):
        m = self.take()
        h = F.silu(self.norm(x, m["GroupNorm_0.weight"], m["GroupNorm_0.bias"]))
        if resample is not None:
            h, x = self.resampled(h, resample == "up"), self.resampled(x, resample == "up")
        h = F.conv2d(h, m["Conv_0.weight"], m["Conv_0.bias"], padding=1)
        h = h + F.linear(emb, m["Dense_0.weight"], m["Dense_0.bias"])[..., None, None]
        h = F.silu(self.norm(h, m["GroupNorm_1.weight"], m["GroupNorm_1.bias"]))
        h = F.conv2d(h, m["Conv_1.weight"], m["Conv_1.bias"], padding=1)
        if "Conv_2.weight" in m:
            x = F.conv2d(x, m["Conv_2.weight"], m["Conv_2.bias"])
        if "NIN_0.W" in m:
            x = torch.einsum("bchw,cd->bdhw", x, m["NIN_0.W"]) + m["NIN_0.b"][:, None, None]
        return self.merge(x, h)

    def attention(self, x):
        m = self.take()
        h = self.norm(x, m["GroupNorm_0.weight"], m["GroupNorm_0.bias"])
        q, k, v = (
            torch.einsum("bchw,cd->bdhw", h, m[f"NIN_{i}.W"]) + m[f"NIN_{i}.b"][:, None, None]
            for i in range(3)
        )
        weights = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(x.shape[1])
        shape = weights.shape
        weights = weights.flatten(3).softmax(-1).reshape(shape)
        h = torch.einsum("bhwij,bcij->bchw", weights, v)
        h = torch.einsum("bchw,cd->bdhw", h, m["NIN_3.W"]) + m["NIN_3.b"][:, None, None]
        return self.merge(x, h)

    def embedding(self, labels):
        nf = self.model["nf"]
        if self.model["name"] == "ncsnpp" and self.model["embedding_type"] == "fourier":
            # The phases are float32, as in score-SDE: the frequencies are large, and their rounding
            # shows.
            phase = labels.float().log()[:, None] * self.take()["W"].float() * 2 * math.pi
        else:
            half = nf // 2
            rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half).double())
            phase = labels[:, None] * rates
        emb = torch.cat([phase.sin(), phase.cos()], 1).double()
        for index in range(2):
            m = self.take()
            emb = F.linear(emb if index == 0 else F.silu(emb), m["weight"], m["bias"])
        return F.silu(emb)

    def plain_conv(self, x):
        m = self.take()
        return F.conv2d(x, m["weight"], m["bias"], padding=1)

    def activated(self, x):
        m = self.take()
        return F.silu(self.norm(x, m["weight"], m["bias"]))

    # ------------------------------------------------------------ the whole

    def step(self, h, emb, up):
        if self.model["name"] == "ddpm" or self.model["resblock_type"] == "ddpm":
            if self.model["resamp_with_conv"]:
                return self.learned(h, up)
            self.number += 1  # this is a module without tensors
            return self.resampled(h, up)
        return self.block(h, emb, "up" if up else "down")

    def __call__(self, x, labels):
        """The output before it is divided by σ, for images in [-1, 1]; float64."""
        self.number = 0
        x, model = x.double(), self.model
        emb = self.embedding(labels.double())
        levels, attended = len(model["ch_mult"]), model["attn_resolutions"]
        pyramid_in, pyramid_out = model.get("progressive_input"), model.get("progressive")
        pyramid, skips = x, [self.plain_conv(x)]
        for level in range(levels):
            for _ in range(model["num_res_blocks"]):
                h = self.block(skips[-1], emb)
                if self.size >> level in attended:
                    h = self.attention(h)
                skips.append(h)
            if level < levels - 1:
                h = self.step(skips[-1], emb, up=False)
                if pyramid_in == "input_skip":
                    pyramid, m = self.resampled(pyramid, up=False), self.take()
                    own = F.conv2d(pyramid, m["Conv_0.weight"], m["Conv_0.bias"])
                    cat = model["progressive_combine"] == "cat"
                    h = torch.cat([own, h], 1) if cat else own + h
                elif pyramid_in == "residual":
                    pyramid = h = self.merge(self.learned(pyramid, up=False), h)
                skips.append(h)
        h = self.block(self.attention(self.block(skips[-1], emb)), emb)
        image = None
        for level in reversed(range(levels)):
            for _ in range(model["num_res_blocks"] + 1):
                h = self.block(torch.cat([h, skips.pop()], 1), emb)
            if self.size >> level in attended:
                h = self.attention(h)
            if pyramid_out == "output_skip":
                own = self.plain_conv(self.activated(h))
                image = own if image is None else self.resampled(image, up=True) + own
            elif pyramid_out == "residual":
                if image is None:
                    image = self.plain_conv(self.activated(h))
                else:
                    image = h = self.merge(self.learned(image, up=True), h)
            if level > 0:
                h = self.step(h, emb, up=True)
        if pyramid_out != "output_skip":
            image = self.plain_conv(self.activated(h))
        modules = {int(name.split(".")[1]) for name in self.state}
        assert not skips and self.number == max(modules) + 1
        return image
