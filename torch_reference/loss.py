"""The loss: dice of the binary map + 10 L1 of the threshold + 5 balanced cross entropy of the probability.

Sources: arXiv:1911.08947, section 3.5; MindOCR `mindocr/losses/det_loss.py`; MhLiao/DB
`decoders/balance_cross_entropy_loss.py`.
Everything is computed in float32, whatever the network computes in: k = 50 times the rounding of a float16 is more than
the step function can bear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dbnet.loss_settings import LossSettings
from torch_reference.head import DBHead


class DBLoss(nn.Module):
    """Of logits, not of probabilities: a saturated sigmoid would have no gradient left.

    head: whose step function is used. settings: scales, and how hard negatives are mined.
    """

    def __init__(self, head: DBHead, settings: LossSettings):
        super().__init__()
        self.head = head
        self.bce_scale = settings.bce_scale
        self.l1_scale = settings.l1_scale
        self.eps = settings.eps
        self.negative_ratio = settings.negative_ratio
        self.least_negatives = settings.least_negatives
        self.per_image = settings.mining == "mindocr"
        self.dice_for_probability = settings.bce_replace == "diceloss"
        self.sigmoid = nn.Sigmoid()

    def forward(self, logits: Tensor, threshold_logits: Tensor, binary_map: Tensor, mask: Tensor, thresh_map: Tensor,
                thresh_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss, and unscaled its parts: dice, L1, cross entropy. logits: (N, 1, H, W); maps: (N, H, W) float32."""
        logits = self.exact(logits)
        probability = self.sigmoid(logits)
        threshold = self.sigmoid(self.exact(threshold_logits))
        binary = self.head.step(probability, threshold)
        dice = self.dice(binary, binary_map, mask)
        l1 = (torch.abs(threshold - thresh_map) * thresh_mask).sum() / (thresh_mask.sum() + self.eps)
        if self.dice_for_probability:
            bce = self.dice(probability, binary_map, mask)
        else:
            bce = self.balanced_cross_entropy(logits, binary_map, mask)
        return dice + self.l1_scale * l1 + self.bce_scale * bce, dice, l1, bce

    def exact(self, logits: Tensor) -> Tensor:
        """(N, 1, H, W) of any precision as (N, H, W), at least float32."""
        logits = logits.squeeze(1)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def dice(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """1 - 2 * overlap / sum, over the whole batch."""
        prediction = prediction * mask
        target = target * mask
        return 1 - 2 * (prediction * target).sum() / (prediction.sum() + target.sum() + self.eps)

    def balanced_cross_entropy(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Over all text and the `negative_ratio` times as many hardest pixels without."""
        # Not by ReLU and absolute value, whose derivatives at a logit of 0 add up to 0 instead of 1/2.
        positive = logits > 0
        size = torch.where(positive, logits, -logits)
        loss = torch.where(positive, logits, torch.zeros_like(logits)) - logits * target + torch.log1p(torch.exp(-size))
        text = target * mask
        rest = (1 - target) * mask
        hard, count = self.mined(loss.detach() * rest, text, rest)
        return ((loss * text).sum() + (loss * rest * hard).sum()) / (text.sum() + count + self.eps)

    def mined(self, loss: Tensor, text: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """The share of each pixel in the hardest negatives, (N, H, W), and how many of these there are.

        MindOCR mines each image by itself, at least ten pixels, and takes all that are as hard as the last one;
        MhLiao/DB mines the batch and takes just so many, here by sharing the last places out among the equally hard.
        """
        rows = loss.reshape(loss.shape[0], -1) if self.per_image else loss.reshape(1, -1)
        found = text.reshape(rows.shape).sum(1)
        left = rest.reshape(rows.shape).sum(1)
        count = torch.floor(torch.minimum(left, found * self.negative_ratio))
        if self.per_image:
            count = torch.clamp(count, min=self.least_negatives)
        last = self.kth_largest(rows, count)
        if self.per_image:
            share = (rows >= last).to(rows.dtype)
        else:
            harder = (rows > last).to(rows.dtype)
            equal = (rows == last).to(rows.dtype)
            places = count - harder.sum(1)
            share = harder + equal * (places / torch.clamp(equal.sum(1), min=1)).unsqueeze(1)
        return share.reshape(loss.shape), count.sum()

    def kth_largest(self, rows: Tensor, count: Tensor) -> Tensor:
        """(R, 1): of each row (R, M) the value that `count` (R,) values reach; more than any where it is 0."""
        ordered, _ = torch.sort(rows, dim=1)
        place = torch.clamp(rows.shape[1] - count.long(), min=0, max=rows.shape[1] - 1)
        value = torch.gather(ordered, 1, place.unsqueeze(1))
        return torch.where(count.unsqueeze(1) > 0, value, torch.full_like(value, float("inf")))
