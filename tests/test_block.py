"Loaders: what they take, what they refuse, and what fastai's own calls give"
import numpy as np, pytest, torch
from ssd_fastai.all import *
from ssd_fastai.data.block import BoxCategorize, as_test_item, record_labels
from ssd_fastai.train.guards import check_loaders

def loaders(train, valid, **kwargs):
    kwargs = {**dict(bs=4, num_workers=0), **kwargs}
    return BBoxDataLoaders.from_annotations(train[:12], valid[:5], **kwargs)

def test_tfms_is_what_ssd_tfms_returns(train, valid):
    items,batch = ssd_tfms((64,96), flip_vert=True, color=0)
    for dls in (loaders(train,valid,tfms=(items,batch)), loaders(train,valid,tfms=(items,batch),size=(64,96))):
        assert dls.size==(64,96) and dls.one_batch()[0].shape[2:]==(64,96)
        assert any(t is items[0] for t in dls.train.after_item)
        assert not any(isinstance(t,ColorJitter) for t in dls.train.after_batch)
    assert loaders(train, valid).size==(224,224)

def test_tfms_in_every_constructor(cells, train, valid, tmp_path):
    train[:8].to_voc(tmp_path/'voc')
    for part,a in (('train',train[:8]),('valid',valid[:4])): a.to_yolo(tmp_path/'yolo', part)
    train[:8].to_csv(tmp_path/'a.csv')
    kw = dict(tfms=ssd_tfms(48), bs=4)
    made = [BBoxDataLoaders.from_coco(cells/'train.json', cells/'valid.json', cells/'images', **kw),
            BBoxDataLoaders.from_voc(train.folder(), tmp_path/'voc', **kw),
            BBoxDataLoaders.from_yolo(tmp_path/'yolo', **kw),
            BBoxDataLoaders.from_csv(tmp_path/'a.csv', train.folder(), **kw),
            bbox_datablock(train.vocab, **dict(tfms=ssd_tfms(48))).dataloaders(train.records[:8], bs=4, num_workers=0)]
    assert [o.size for o in made]==[(48,48)]*5

@pytest.mark.parametrize('kw', [dict(tfms=ssd_tfms(64)), dict(item_tfms=ssd_tfms(64)[0]), dict(item_tfms=BoxResize(64)),
                                dict(tfms=([BoxResize(128),RandomWindow(64)],[]))])
def test_another_size_is_named(train, valid, kw):
    with pytest.raises(ValueError, match=r'\(128, 128\).*\(64, 64\)'): loaders(train, valid, size=128, **kw)

def test_confused_transforms_are_named(train, valid):
    pair = ssd_tfms(64)
    with pytest.raises(ValueError, match='both kinds'): loaders(train, valid, size=64, tfms=pair, item_tfms=pair[0])
    with pytest.raises(ValueError, match='tfms='): loaders(train, valid, size=64, item_tfms=pair)
    for odd in (pair[0], RandomWindow(64), [RandomWindow(64),ColorJitter()]):
        with pytest.raises(ValueError, match='as `ssd_tfms` returns'): loaders(train, valid, size=64, tfms=odd)

@pytest.fixture
def broken(train, valid, tmp_path):
    "Twelve photos in each format, one of them cut off"
    train[:12].to_yolo(tmp_path, 'train')
    valid[:4].to_yolo(tmp_path, 'valid')
    imgs = tmp_path/'images/train'
    a = Annotations([Record(imgs/r.path.name,r.size,r.boxes,r.labels) for r in train[:12]], train.vocab)
    a.to_coco(tmp_path/'a.json')
    a.to_csv(tmp_path/'a.csv')
    a.to_voc(tmp_path/'xml')
    (imgs/train[2].path.name).write_bytes(b'x'*100)
    return tmp_path,imgs

@pytest.mark.parametrize('how', ['coco','voc','yolo','csv'])
def test_drop_bad_in_every_constructor(broken, train, how):
    d,imgs = broken
    make = dict(coco=lambda **k: BBoxDataLoaders.from_coco(d/'a.json', d/'a.json', imgs, **k),
                voc=lambda **k: BBoxDataLoaders.from_voc(imgs, d/'xml', **k),
                yolo=lambda **k: BBoxDataLoaders.from_yolo(d, **k),
                csv=lambda **k: BBoxDataLoaders.from_csv(d/'a.csv', imgs, **k))[how]
    with pytest.raises(BadPhoto, match=train[2].path.name): make(size=48, bs=2)
    with pytest.warns(BoxWarning): dls = make(size=48, bs=2, drop_bad=True)
    assert train[2].path.name not in {r.path.name for part in dls.records for r in part}

def test_all_objects_ignored_is_named(train, valid):
    rs = [Record(r.path,r.size,r.boxes,r.labels,crowd=[True]*len(r.labels)) for r in train[:12]]
    t = Annotations(rs, train.vocab)
    with pytest.raises(ValueError, match='crowd or difficult.*ignore='): loaders(t, valid)
    assert loaders(t, valid, ignore=()).vocab==train.vocab

def test_validation_without_an_object_is_told(train, valid):
    empty = Annotations([Record(r.path,r.size,[],[]) for r in valid[:5]], train.vocab)
    with pytest.warns(UserWarning, match='validation set has no objects: AP cannot be measured'): loaders(train, empty)

def test_ignored_objects_are_decoded_to_their_class():
    cat = BoxCategorize(['a','b','c'])
    r = Record('x', (64,64), [[1,1,9,9]]*3, ['a','b','c'], difficult=[True,False,True])
    numbers = cat.encodes(record_labels(r))
    assert numbers.tolist()==[-1,2,-3] and list(cat.decode(numbers))==r.labels

@pytest.mark.parametrize('name', [int,np.int64,np.str_,lambda l: 7+3*l], ids=['int','int64','str_','gap'])
def test_classes_named_by_numbers(train, valid, name):
    def numbered(a):
        return Annotations([Record(r.path,r.size,r.boxes,[name(a.vocab.index(l)) for l in r.labels]) for r in a])
    t,v = numbered(train[:12]),numbered(valid[:5])
    t[0].crowd[0] = True
    dls = loaders(t, v, size=48)
    dls.show_batch(names=True)
    dls.show_batch(split=1)
    dls.train.show_batch()
    assert dls.vocab==t.vocab and dls.new(bs=2).one_batch()[0].shape[0]==2
    labels = dls.train.dataset[0][2]
    assert labels[0]==-(t.vocab.index(t[0].labels[0])+1) and list(dls.train.dataset.tls[2].decode(labels))[1:]==[
        str(l) if isinstance(l,str) else l for l in t[0].labels[1:]]

@pytest.fixture(scope='module')
def learn(train, valid):
    dls = loaders(train, valid, tfms=ssd_tfms(64))
    return ssd_learner(dls, resnet18, pretrained=False, precision='fp32')

def seen_by_predict(learn, item):
    "What the model is given by `predict`"
    seen = []
    hook = learn.model.register_forward_pre_hook(lambda m,x: seen.append(x[0].detach().clone()))
    try: learn.predict(item)
    finally: hook.remove()
    return seen[0].as_subclass(Tensor)

def test_test_dl_gives_what_predict_gives(learn, valid):
    paths = [r.path for r in valid[:5]]
    want = torch.cat([seen_by_predict(learn,p) for p in paths])
    with torch.no_grad(): model_says = learn.model.eval()(want)
    for items in (paths, [str(p) for p in paths], valid[:5], valid[:5].records, [Image.open(p) for p in paths]):
        dl = learn.dls.test_dl(items, bs=2)
        got = torch.cat([b[0].as_subclass(Tensor) for b in dl])
        assert torch.allclose(got, want, atol=1e-6)
        with learn.no_bar(), learn.no_logging(): preds,targets = learn.get_preds(dl=dl)
        assert targets is None or not len(targets)
        for a,b in zip(preds,model_says): assert torch.allclose(a, b, atol=1e-4)

def test_test_dl_after_load_learner(learn, valid, tmp_path):
    learn.export(tmp_path/'a.pkl')
    new = load_learner(tmp_path/'a.pkl')
    for items in (valid[0].path, valid[:3].records, [Image.open(valid[0].path)]):
        x = new.dls.test_dl(items).one_batch()[0]
        assert torch.allclose(x[:1].as_subclass(Tensor), seen_by_predict(learn,valid[0].path), atol=1e-6)

def test_test_dl_with_labels(learn, valid):
    x,b,l = learn.dls.test_dl(valid[:5], with_labels=True, bs=5).one_batch()
    assert [(o!=0).sum().item() for o in l]==[len(r.labels) for r in valid[:5]]

def test_test_dl_says_what_it_cannot_take(learn, valid, tmp_path):
    dls,path = learn.dls,valid[0].path
    with pytest.raises(ValueError, match='no photos'): dls.test_dl([])
    with pytest.raises(ValueError, match='needs Records'): dls.test_dl([path], with_labels=True)
    with pytest.raises(ValueError, match='not of both'): dls.test_dl([path,Image.open(path)])
    with pytest.raises(ValueError, match='Image.fromarray'): dls.test_dl([np.zeros((9,9,3))])
    with pytest.raises(FileNotFoundError, match='gone.jpg'): dls.test_dl([tmp_path/'gone.jpg'])
    assert as_test_item(Image.new('L',(7,5))).mode=='RGB'

def test_loaders_of_fastai_are_named(train, valid):
    recs = train.records[:8]
    boxes = DataBlock((ImageBlock,BBoxBlock,BBoxLblBlock), get_items=noop, n_inp=1, item_tfms=Resize(64),
                      get_x=lambda r: r.path, get_y=[lambda r: r.boxes.tolist(), lambda r: r.labels])
    points = DataBlock((ImageBlock,PointBlock), get_items=noop, item_tfms=Resize(64), get_x=lambda r: r.path,
                       get_y=lambda r: r.boxes[:1,:2].tolist())
    for odd in (boxes.dataloaders(recs,bs=4), points.dataloaders(recs,bs=4), train, None):
        with pytest.raises(TypeError, match='BBoxDataLoaders.from_annotations'): check_loaders(odd)
    check_loaders(loaders(train, valid))
