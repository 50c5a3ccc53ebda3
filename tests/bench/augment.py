"""What augmentation is worth on BCCD: AP on `test` after the same number of steps with each recipe, three seeds.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/augment.py [epochs] [threads] [recipe,recipe,…] [seed,seed,…]

none: resize only. torchvision v2: the SSD recipe of torchvision's detection reference (photometric distortion,
zoom out, IoU crop, flip), boxes without area left out as its `SanitizeBoundingBoxes` does. The others: `ssd_tfms`,
with nothing changed; `flip_vert` adds a vertical flip, since a smear has no up. Same model, default boxes,
optimizer, order of photos and number of steps in all.
"""
import sys, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from torchvision import tv_tensors
from torchvision.transforms import v2
from ssd_fastai.all import *
from clock import rounded, seconds, spread, train_quietly
from photos import bccd

def torchvision_ssd(size):
    "The SSD recipe of torchvision's detection reference"
    fill = {tv_tensors.Image:(124,116,104), 'others':0}
    return v2.Compose([v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop(),
                       v2.RandomHorizontalFlip(), v2.Resize(size, antialias=True), v2.SanitizeBoundingBoxes()])

class TorchvisionRecipe(BoxResize):
    "torchvision v2's SSD recipe as one fastai item transform, in training only"
    def __init__(self, size):
        super().__init__(size)
        self.tfm = torchvision_ssd(self.size)
    def __call__(self, x, split_idx=None, **kwargs):
        if split_idx!=0: return super().__call__(x, split_idx=split_idx, **kwargs)
        im = tv_tensors.Image(torch.from_numpy(np.array(x[0])).permute(2,0,1))
        boxes = tv_tensors.BoundingBoxes(x[1].as_subclass(Tensor), format='XYXY', canvas_size=im.shape[-2:])
        out = self.tfm(dict(image=im, boxes=boxes, labels=x[2].as_subclass(Tensor)))
        photo = PILImage.create(out['image'].permute(1,2,0).numpy())
        boxes = TensorBBox(out['boxes'].as_subclass(Tensor), img_size=photo.size)
        return photo,boxes,TensorMultiCategory(out['labels'])

recipes = {'none':                     lambda s: ([BoxResize(s)],[]),
           'torchvision v2':           lambda s: ([TorchvisionRecipe(s)],[]),
           'ssd_tfms()':               ssd_tfms,
           'ssd_tfms(paper=True)':     lambda s: ssd_tfms(s, paper=True),
           'ssd_tfms(flip_vert=True)': lambda s: ssd_tfms(s, flip_vert=True)}

def one(name, train, valid, epochs, seed, size=(112,144)):
    "AP of one training"
    set_seed(seed, reproducible=True)
    items,batch = recipes[name](size)
    dls = BBoxDataLoaders.from_annotations(train, valid, size=size, bs=8, item_tfms=items, batch_tfms=batch)
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, strides=(4,8,16), width=64)
    ap = train_quietly(learn, 'fine_tune', epochs, 2e-3).ap_per_class()
    by_class = {f'AP50 {k}':v for k,v in ap['AP50'].items()}
    return dict(recipe=name, seed=seed, AP=ap['AP'].mean(), AP50=ap['AP50'].mean(), **by_class)

def main(epochs=40, threads=2, names=','.join(recipes), seeds='1,2,3'):
    torch.set_num_threads(int(threads))
    train,valid = bccd()
    rows = []
    for seed in map(int, seeds.split(',')):
        for name in names.split(','):
            t,row = seconds(lambda: one(name, train, valid, int(epochs), seed))
            rows.append(row)
            print(rounded(row), f'{t:.0f} s', flush=True)
    print(f'\n{epochs} epochs, 112x144, resnet10t from scratch, seeds {seeds}, torch {torch.__version__}')
    print(spread(pd.DataFrame(rows), 'recipe'))

if __name__=='__main__': main(*sys.argv[1:])
