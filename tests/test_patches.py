"Crops against torchvision on many boxes, awkward shapes and bad input."
import copy, pickle
import pytest, torch, torchvision.transforms.v2 as v2
from scipy.stats import ks_2samp
from ogm.core import OgmError, rng, seeded
from ogm.patches import PatchExtract, crop_boxes, crop_resize, fit_boxes, random_flip, random_resized_crop, resize, stitch, unstitch


@pytest.mark.parametrize('height,width,scale,ratio', [(224, 224, (.08, 1), (3/4, 4/3)), (32, 32, (.5, 1), (3/4, 4/3)), (30, 90, (.3, 1), (3/4, 4/3)), (50, 70, (.08, 1), (1, 1))])
def test_boxes_follow_torchvisions_distribution(height, width, scale, ratio):
    aug, img = v2.RandomResizedCrop(8, scale=scale, ratio=ratio), torch.empty(3, height, width)
    with seeded(1, 'tv'): theirs = torch.tensor([[p[k] for k in ('top', 'left', 'height', 'width')] for p in (aug.make_params([img]) for _ in range(3000))]).double()
    ours = crop_boxes(3000, height, width, scale, rng(3, 'boxes'), ratio).double()
    for f in (lambda b: b[:, 2]*b[:, 3], lambda b: b[:, 3]/b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert ks_2samp(f(ours), f(theirs)).pvalue > .003


def test_boxes_at_the_edges_of_the_uniform_numbers():
    u = torch.stack(torch.meshgrid(*[torch.tensor([0., .5, 1 - 2**-24])]*4, indexing='ij'), -1).view(-1, 1, 4).expand(-1, 10, 4)
    for h, w in ((1, 1), (2, 300), (17, 17)):
        t, l, bh, bw = fit_boxes(u, h, w, (.08, 1)).T
        assert (t >= 0).all() and (l >= 0).all() and (bh >= 1).all() and (bw >= 1).all() and (t + bh <= h).all() and (l + bw <= w).all()


@pytest.mark.parametrize('size', [1, 7, 32, (48, 20), 150])
def test_pixels_match_torchvision(size):
    x = torch.rand(40, 3, 61, 47, generator=rng(0, 'x')); boxes = crop_boxes(40, 61, 47, (.001, 1), rng(0, 'b'))
    out = [size, size] if isinstance(size, int) else list(size)
    theirs = torch.stack([v2.functional.resized_crop(i, *b, out, antialias=True) for i, b in zip(x, boxes.tolist())])
    torch.testing.assert_close(crop_resize(x, boxes, size), theirs, atol=2e-5, rtol=0)


def test_dtypes_and_autocast():
    x = torch.rand(2, 3, 16, 16); boxes = torch.tensor([[0, 0, 16, 16], [3, 4, 5, 6]]); ref = crop_resize(x, boxes, 8)
    assert crop_resize(x.double(), boxes, 8).dtype == torch.float64
    with torch.autocast('cpu', torch.bfloat16): got = crop_resize(x, boxes, 8)
    assert got.dtype == torch.float32 and torch.equal(got, ref)
    half = crop_resize(x.bfloat16(), boxes, 8)
    assert half.dtype == torch.bfloat16 and (half.float() - ref).abs().max() < .02


def test_every_image_has_its_own_crop_and_flip():
    x = torch.rand(1, 3, 32, 32).expand(32, -1, -1, -1)
    y = random_resized_crop(x, (.08, 1), 32, rng(0))
    assert len({t.numpy().tobytes() for t in y}) == 32
    assert torch.equal(y, random_resized_crop(x, .08, 32, rng(0)))                  # one number is the smallest area
    z = random_flip(x, rng(0)); flipped = [not torch.equal(a, b) for a, b in zip(x, z)]
    assert 0 < sum(flipped) < 32 and all(torch.equal(b, a.flip(-1)) for a, b, f in zip(x, z, flipped) if f)
    assert torch.equal(random_flip(x, p=0.), x) and torch.equal(random_flip(x, p=1.), x.flip(-1))


def test_without_generator_torchs_own_is_used():
    x = torch.rand(4, 3, 16, 16); outs = []
    for _ in range(2):
        with seeded(0): outs.append((PatchExtract(2)(x), random_resized_crop(x, (.5, 1), 8), random_flip(x)))
    assert all(torch.equal(a, b) for a, b in zip(*outs))


def test_patch_extract_is_a_module_with_algorithm_6s_semantics():
    x = torch.rand(64, 3, 33, 50)
    with seeded(7): got = PatchExtract(4)(x)
    with seeded(7): rows, cols = torch.randint(0, 4, (2, 64))
    want = x.unfold(2, 8, 8).unfold(3, 12, 12)[torch.arange(64), :, rows, cols]
    assert torch.equal(got, want) and got.shape == (64, 3, 8, 12)
    pipe = v2.Compose([PatchExtract(2), v2.RandomResizedCrop(32, scale=(.5, 1), antialias=True), v2.RandomHorizontalFlip()])   # as the paper composes it
    assert pipe(x).shape == (64, 3, 32, 32)
    assert repr(PatchExtract(2)) == 'PatchExtract(factor=2)' and copy.deepcopy(PatchExtract(2)).factor == 2 and pickle.loads(pickle.dumps(PatchExtract(2))).factor == 2
    assert torch.equal(PatchExtract(1)(x), x)


@pytest.mark.parametrize('factor', [1, 2, 3, 7])
def test_stitch_inverts_unstitch(factor):
    x = torch.randint(0, 256, (3, 3, 23, 31), dtype=torch.uint8); h, w = 23//factor*factor, 31//factor*factor
    assert torch.equal(stitch(unstitch(x, factor), factor), x[:, :, :h, :w])
    p = torch.rand(2*factor**2, 3, 4, 5); assert torch.equal(unstitch(stitch(p, factor), factor), p)


def test_gradients_through_the_whole_chain():
    x = torch.rand(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    def chain(x): g = rng(0, 'g'); return random_flip(random_resized_crop(PatchExtract(2)(x, g), (.5, 1), 5, g), g)
    assert torch.autograd.gradcheck(chain, x)
    assert torch.autograd.gradcheck(lambda x: resize(x, 5), x)


@pytest.mark.parametrize('call,says', [
    (lambda x: random_resized_crop(x[0], (.5, 1), 8), 'a batch of images'),
    (lambda x: random_resized_crop(x.byte(), (.5, 1), 8), 'float images, got torch.uint8'),
    (lambda x: resize(x.byte(), 8), 'float images, got torch.uint8'),
    (lambda x: random_resized_crop(x, (.9, .5), 8), '0 < low <= high'),
    (lambda x: random_resized_crop(x, 0., 8), '0 < low <= high'),
    (lambda x: crop_boxes(2, 9, 9, (.5, 1), ratio=(0, 1)), '0 < low <= high'),
    (lambda x: PatchExtract(17)(x), 'factor 17 is larger than the image'),
    (lambda x: PatchExtract(0)(x), 'whole number from 1'),
    (lambda x: unstitch(x, 1.5), 'whole number from 1'),
    (lambda x: stitch(x, 2), 'do not fill'),
    (lambda x: stitch(x, 0), 'do not fill')])
def test_bad_input_is_told_in_one_line(call, says):
    with pytest.raises(OgmError, match=says) as e: call(torch.rand(3, 3, 16, 16))
    assert '\n' not in str(e.value)
