"fastai's own blocks: the same photos, boxes and batches as `from_annotations`, and nothing lost without a word"
import warnings
import numpy as np, pytest
from ssd_fastai.all import *

def block_of(recs, n, **kwargs):
    "A DataBlock of fastai's blocks over paths"
    at = {r.path:r for r in recs}
    kw = dict(item_tfms=Resize((64,96),ResizeMethod.Squish), batch_tfms=[Normalize.from_stats(*imagenet_stats)]) | kwargs
    get_y = [lambda p: at[p].boxes.tolist(), lambda p: at[p].labels]
    return DataBlock((ImageBlock,BBoxBlock,BBoxLblBlock(kw.pop('vocab',None))), n_inp=1, get_items=lambda s: list(at),
                     splitter=IndexSplitter(range(n,len(at))), get_y=get_y, **kw)

@pytest.fixture
def pair(train, valid): return train[:24],valid[:8]

def both(pair, **kw):
    t,v = pair
    theirs = block_of([*t,*v], len(t), vocab=t.vocab).dataloaders('.', bs=8, num_workers=0)
    own = BBoxDataLoaders.from_annotations(t, v, size=(64,96), bs=8, item_tfms=[BoxResize((64,96))], batch_tfms=[], **kw)
    return theirs,own

def test_same_batches(pair):
    theirs,own = both(pair)
    mine = BBoxDataLoaders.from_fastai(theirs)
    assert mine.vocab==own.vocab and mine.size==own.size and mine.train.dataset.tls[2].vocab[0]=='#na#'
    for a,b in zip(mine.valid,own.valid,strict=True):
        for x,y in zip(a,b): assert torch.allclose(x.float(),y.float(),atol=1e-5)
    for a,b in zip(mine.records[0],pair[0],strict=True):
        assert a.path==b.path and a.labels==b.labels and np.allclose(a.boxes,b.boxes,atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        BBoxDataLoaders.from_fastai(theirs)

def test_same_training(pair):
    aps = []
    for i in (0,1):
        set_seed(2, reproducible=True)
        theirs = block_of([*pair[0],*pair[1]], 24, vocab=pair[0].vocab).dataloaders('.', bs=8, num_workers=0) if i else None
        own = None if i else BBoxDataLoaders.from_annotations(*pair, (64,96), 8, item_tfms=[BoxResize((64,96))], batch_tfms=[])
        l = ssd_learner(theirs or own, 'resnet10t', pretrained=False)
        with l.no_bar(),l.no_logging(): l.fine_tune(3)
        aps.append(l.ap_per_class().AP.fillna(0).to_numpy())
    assert np.abs(aps[0]-aps[1]).max()<=.01

def test_loaders_of_fastai_for_a_learner(pair):
    "get_preds of a test loader of fastai's, and of its validation loader, are those of our own"
    theirs,own = both(pair)
    l = ssd_learner(theirs, 'resnet10t', pretrained=False)
    assert isinstance(l.dls,BBoxDataLoaders)
    paths = [r.path for r in pair[1]]
    for dl in (theirs.test_dl(paths),l.dls.test_dl(paths)):
        with l.no_bar(): preds,_ = l.get_preds(dl=dl)
        for i,p in enumerate(paths):
            m = l.eval_model()
            det = m.detections([o[i:i+1] for o in preds], [Image.open(p).size], l.dls.vocab, min_score=.02)[0]
            want = l.predict(p, min_score=.02)
            assert det.names==want.names and torch.allclose(det.boxes,want.boxes,atol=1e-2)
    assert l.ap_per_class(theirs.valid).equals(l.ap_per_class())

@pytest.mark.parametrize('tfms,says', [([Resize(64)],'crops'), ([FlipItem(1.),Resize(64,ResizeMethod.Pad)],'FlipItem would'),
                                       ([],'224×224'), ([RandomResizedCrop(64)],'would lose boxes')])
def test_what_loses_boxes_is_told(pair, tfms, says):
    t,v = pair
    theirs = block_of([*t,*v], len(t), item_tfms=tfms, batch_tfms=[]).dataloaders('.', bs=2, num_workers=0)
    with pytest.warns(UserWarning, match=says): mine = BBoxDataLoaders.from_fastai(theirs)
    n = sum(len(r.labels) for r in t)
    assert sum(len(r.labels) for r in mine.records[0])==n
    assert sum(int((y!=0).sum()) for _,_,y in mine.train.new(shuffle=False,drop_last=False))==n

def test_functions_as_in_fastai(pair):
    t,v = pair
    at = {r.path:r for r in [*t,*v]}
    block = bbox_datablock(t.vocab, (64,96), get_items=lambda s: list(at), get_y=lambda p: (at[p].boxes,at[p].labels),
                           splitter=FuncSplitter(lambda p: p in {r.path for r in v}))
    dls = block.dataloaders('.', bs=8, num_workers=0)
    assert [len(r) for r in dls.records]==[24,8] and {r.path for r in dls.records[1]}=={r.path for r in v}
    assert len(block.datasets('.').train)==24 and len(dls.new(bs=2).one_batch()[0])==2
    dls.show_batch(nrows=2, ncols=2)
    plt.close('all')
    bad = bbox_datablock(t.vocab, 64, get_items=lambda s: list(at), get_y=lambda p: (at[p].boxes,['RBC']))
    with pytest.raises(ValueError, match='boxes and 1 labels'): bad.dataloaders('.')
    with pytest.raises(ValueError, match='belong together'): bbox_datablock(t.vocab, 64, get_items=get_image_files)

def test_what_is_no_set_of_boxes(pair):
    t,v = pair
    dls = ImageDataLoaders.from_name_func('.', [r.path for r in t], lambda f: 'a', item_tfms=Resize(64), num_workers=0)
    with pytest.raises(TypeError, match='from_fastai takes'): BBoxDataLoaders.from_fastai(dls)
    with pytest.raises(TypeError, match='BBoxDataLoaders.from_annotations'): ssd_learner(dls, 'resnet10t', pretrained=False)
