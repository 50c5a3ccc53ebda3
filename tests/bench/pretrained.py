"""What a pretrained body is worth: AP on BCCD `test` and on painted photos, three seeds, with the CPU time of a training.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/pretrained.py part [seed,seed,…] [epochs]

part: bccd      all training photos, 192×256: EfficientNet-Lite0 (extra [lite]); resnet10t from scratch
      few       60 training photos: the same, pretrained and from scratch
      large     130 painted photos with one large object each, `fine_tune(10)`
      curve     50, 150 and all training photos, pretrained and from scratch, each for the same number of steps
      ways      frozen epochs and a slower body beside the default; heads without a neck; fastai's Adam
      mistakes  what the first of `bccd` gets wrong, with one seed: kinds, worst photos, interval
      torchvision   torchvision's SSDlite320 with its own recipe, in the CPU time that the first row of `bccd` takes

Everything is a default of the library, except for the size, the epochs, and that smears are mirrored top to bottom.
One thread, 32 bits. Medians, in brackets the lowest and the highest.
"""
import contextlib, io, statistics, sys, tempfile, time, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import torch
from ssd_fastai.all import *
from ssd_fastai.data.annotations import Annotations
from photos import bccd, large

lite,size = 'tf_efficientnet_lite0',(160,208)

def train_one(train, valid, arch, seed, epochs, flip_vert=True, size=size, pretrained=False, plan=None, look=noop, **kwargs):
    "(AP, AP50, AP50 of the platelets if there are any, CPU seconds, AP without box voting) of one training"
    set_seed(seed, reproducible=True)
    dls = BBoxDataLoaders.from_annotations(train, valid, tfms=ssd_tfms(size, flip_vert))
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        learn = ssd_learner(dls, arch, pretrained=pretrained, **kwargs)
        with learn.no_bar(),learn.no_logging(): learn.fine_tune(epochs, **(plan or {}))
    cpu = time.process_time()-start
    ap = learn.ap_per_class()
    look(learn)
    learn.model.vote = None
    return ap.AP.mean(),ap.AP50.mean(),ap.AP50.get('Platelets',float('nan')),cpu,learn.ap_per_class().AP.mean()

def span(v, digits=3):
    "Median, with the lowest and the highest"
    m = f'{statistics.median(v):.{digits}f} ({min(v):.{digits}f}–{max(v):.{digits}f})'
    return m.replace('0.','.') if digits else m

def told(name, rows):
    "One line for the trainings of some seeds"
    ap,ap50,rare,cpu,plain = zip(*rows)
    platelets = '' if math.isnan(rare[0]) else f'  AP50 platelets {span(rare)}'
    print(f'{name}: AP {span(ap)} (without voting {span(plain)})  AP50 {span(ap50)}{platelets}  CPU {span(cpu,0)} s', flush=True)

def spread(name, seeds, f): told(name, [f(seed) for seed in seeds])

unlabeled = [f'BloodImage_00{i}' for i in (249,303,327)] # full of red cells, of which none has a label

def part_bccd(seeds, epochs=17):
    train,valid = bccd()
    rest = Annotations([r for r in valid if r.path.stem not in unlabeled], valid.vocab)
    for name,arch,pre,n in (('lite0 pretrained',lite,True,epochs),
                            ('resnet10t from scratch','resnet10t',False,round(epochs*1.2))):
        without = []
        def look(learn): without.append(learn.ap_per_class(rest).AP50.mean())
        def f(s): return train_one(train, valid, arch, s, n, size=(192,256), pretrained=pre, look=look)
        spread(f'{name}, {n} epochs', seeds, f)
        print(f'  without the {len(valid)-len(rest)} photos whose red cells have no labels: AP50 {span(without)}', flush=True)

def part_few(seeds, epochs=40, n=60):
    train,valid = bccd()
    for pre in (True,False):
        def f(s): return train_one(train.split(1-n/len(train),s)[0], valid, lite, s, epochs, pretrained=pre)
        spread(f'{n} photos, lite0 {"pretrained" if pre else "from scratch"}, {epochs} epochs', seeds, f)

def part_large(seeds, epochs=10):
    with tempfile.TemporaryDirectory() as d:
        train,valid = large(d)
        for name,arch,pre in (('lite0 pretrained',lite,True), ('resnet18 from scratch',resnet18,False)):
            def f(s): return train_one(train, valid, arch, s, epochs, False, (192,256), pre)
            spread(f'one large object, {name}, fine_tune({epochs})', seeds, f)

def part_curve(seeds, steps=300):
    train,valid = bccd()
    for n in (50,150,len(train)):
        for pre in (True,False):
            epochs = round(steps/max(1,n//8))
            def f(s):
                some = train.split(1-n/len(train),s)[0] if n<len(train) else train
                return train_one(some, valid, lite, s, epochs, pretrained=pre)
            spread(f'{n} photos, {"pretrained" if pre else "from scratch"}, {epochs} epochs', seeds, f)

def part_ways(seeds, epochs=10):
    train,valid = bccd()
    for name,kw in {'default':{}, 'one frozen epoch, body at a tenth':dict(plan=dict(freeze_epochs=1, lr_mult=10)),
                    'no neck':dict(neck=False, width=64, plan=dict(base_lr=4e-3, freeze_epochs=0, lr_mult=1)),
                    'no neck, one booster':dict(neck=False, width=64, boosters=1,
                                                plan=dict(base_lr=4e-3, freeze_epochs=0, lr_mult=1)),
                    'EMA':dict(cbs=EMA(.99)), "fastai's Adam":dict(opt_func=Adam)}.items():
        spread(f'{name}, {epochs} epochs', seeds, lambda s: train_one(train, valid, lite, s, epochs, pretrained=True, **kw))

def part_mistakes(seeds, epochs=24):
    train,valid = bccd()
    set_seed(seeds[0], reproducible=True)
    dls = BBoxDataLoaders.from_annotations(train, valid, tfms=ssd_tfms(size, True))
    learn = ssd_learner(dls, lite)
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(epochs)
    mis = learn.mistakes(progress=False)
    print(mis.kinds().round(3), mis.worst(5), mis.interval().round(3), mis.stages().stage.value_counts(), sep='\n\n', flush=True)

def as_torchvision(r, tfm):
    "A photo and its target as torchvision's detectors want them"
    from torchvision import tv_tensors
    im = tv_tensors.Image(open_photo(r.path))
    box = tv_tensors.BoundingBoxes(torch.from_numpy(r.boxes.copy()), format='XYXY', canvas_size=im.shape[-2:])
    target = dict(boxes=box, labels=torch.tensor([names.index(l)+1 for l in r.labels]))
    return tfm(im, target)

names = []

def part_torchvision(seeds, budget=290, bs=24):
    "torchvision's references/detection: SGD .9, wd 4e-5, learning rate .15 for 192 photos, cosine; crops and mirrors"
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.transforms import v2
    train,valid = bccd()
    names[:] = train.vocab
    tfm = v2.Compose([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(),
                      v2.ToDtype(torch.float, scale=True)])
    plain,rows = v2.ToDtype(torch.float, scale=True),[]
    for seed in seeds:
        set_seed(seed, reproducible=True)
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(names)+1)
        opt = torch.optim.SGD(model.parameters(), lr=.15*bs/192, momentum=.9, weight_decay=4e-5)
        start,rate,done = time.process_time(),.15*bs/192,0.
        while done<1:
            for i in torch.randperm(len(train)).split(bs):
                done = (time.process_time()-start)/budget
                if done>=1: break
                for g in opt.param_groups: g['lr'] = rate*(1+math.cos(math.pi*done))/2
                ims,targets = zip(*(as_torchvision(train[j],tfm) for j in i.tolist()))
                loss = sum(model(list(ims),list(targets)).values())
                opt.zero_grad()
                loss.backward()
                opt.step()
        cpu = time.process_time()-start
        ap = torchvision_ap(model.eval(), valid, plain)
        rows.append((ap.AP.mean(),ap.AP50.mean(),ap.AP50['Platelets'],cpu,ap.AP.mean()))
    told("torchvision's SSDlite320, its own recipe", rows)

@torch.no_grad()
def torchvision_ap(model, valid, tfm):
    "AP of each class, by the same evaluator"
    from ssd_fastai.train.metrics import by_class
    ev = CocoEvaluator()
    for r in valid:
        im,_ = as_torchvision(r, tfm)
        out = model([im.as_subclass(torch.Tensor)])[0]
        det = Detections(out['boxes'], out['scores'], out['labels']-1, names)
        ev.add(det, torch.from_numpy(r.boxes), torch.tensor([names.index(l) for l in r.labels]))
    return by_class(ev)

def main(part='bccd', seeds='1,2,3', *epochs):
    torch.set_num_threads(1)
    globals()[f'part_{part}']([int(s) for s in seeds.split(',')], *map(int,epochs))

if __name__=='__main__': main(*sys.argv[1:])
