"Oracle for geometry: paint each object in its own color, transform the picture, and find the color again"
import random
import numpy as np, pytest, torch
from PIL import Image
from torchvision.ops import box_iou
from ssd_fastai.all import *
from ssd_fastai.data.augment import color_maps, hw
from ssd_fastai.data.block import BoxCategorize, record_boxes, record_photo
from ssd_fastai.data.boxes import batch_boxes

colors = [(255,0,0),(0,255,0),(0,0,255),(255,255,0),(255,0,255),(0,255,255)]

def scene(rng, w, h, n):
    "Rectangles that do not overlap, each in its own color, on gray"
    im,boxes = np.full((h,w,3),128,np.uint8),[]
    for c in colors[:n]:
        for _ in range(50):
            bw,bh = rng.integers(14,w//3),rng.integers(14,h//3)
            x,y = rng.integers(0,w-bw),rng.integers(0,h-bh)
            if all(x+bw<=a or c2<=x or y+bh<=b or d<=y for a,b,c2,d in boxes): break
        else: continue
        im[y:y+bh,x:x+bw] = c
        boxes.append((x,y,x+bw,y+bh))
    return Image.fromarray(im),np.array(boxes,dtype=np.float32).reshape(-1,4)

def found(im, color):
    "The extent of a color, to a fraction of a pixel: a pixel at the edge that is half colored counts as half"
    sim = 1-np.abs(np.asarray(im).astype(float)-np.array(color)).max(-1)/127
    m = sim>.2
    if not m.any(): return None
    sim,ends = sim.clip(0,1),[]
    for ax in (0,1):
        on = np.flatnonzero(m.any(ax))
        lo,hi,mid = on[0],on[-1]+1,(on[0]+on[-1]+1)//2
        p = np.pad(sim.max(ax),2)
        ends.append((mid-p[lo:mid+2].sum(), mid+p[mid+2:hi+4].sum()))
    return ends[0][0],ends[1][0],ends[0][1],ends[1][1]

def iou(a,b): return box_iou(*(torch.tensor([o],dtype=torch.float) for o in (a,b))).item()

def numbered_item(im, boxes):
    "An item whose objects are labeled 1, 2, 3, …"
    return PILImage(im),TensorBBox(torch.from_numpy(boxes)),TensorMultiCategory(torch.arange(1,len(boxes)+1))

def all_inside(b, w, h):
    "Are boxes inside a picture, and do they have an area?"
    return (b>=0).all() and (b[:,[0,2]]<=w).all() and (b[:,[1,3]]<=h).all() and ((b[:,2:]-b[:,:2])>0).all()

def at_edge(box, w, h): return box[0]<1 or box[1]<1 or box[2]>w-1 or box[3]>h-1

def smallest_side(box): return min(box[2]-box[0],box[3]-box[1])

windows_ = dict(all=RandomWindow((192,256),p_flip_vert=.5), out=RandomWindow(160,p_out=1,max_out=3),
                inside=RandomWindow((200,120),p_out=0,p_in=1), resize=BoxResize((90,200)),
                flip=RandomWindow((224,224),p_out=0,p_in=0), paper=PaperWindow((300,300),p_flip_vert=.3))

@pytest.mark.parametrize('tfm', windows_.values(), ids=windows_)
def test_boxes_follow_the_pixels(tfm):
    rng = np.random.default_rng(0)
    random.seed(0)
    n_seen = n_dropped = 0
    for _ in range(500):
        w,h = int(rng.integers(60,400)),int(rng.integers(60,400))
        im,b = scene(rng, w, h, int(rng.integers(0,7)))
        out,nb,lbl = tfm(numbered_item(im,b), split_idx=0)
        H,W = tfm.size
        assert out.size==(W,H) and len(nb)==len(lbl) and lbl.dtype==torch.int64
        assert all_inside(nb, W, H)
        kept = {int(l)-1:box for l,box in zip(lbl,nb.tolist())}
        for i in range(len(b)):
            px = found(out, colors[i])
            if i in kept and px and smallest_side(kept[i])>12:
                assert iou(kept[i],px)>=.9, (i,kept[i],px)
                n_seen += 1
            if i not in kept:
                n_dropped += 1
                assert px is None or at_edge(px, W, H), 'dropped, but in full view'
    assert n_seen>500
    if type(tfm) is BoxResize or (tfm.p_out==0 and tfm.p_in==0): assert n_dropped==0

def test_flip_keeps_every_box(train):
    t = RandomWindow(224,p_flip=1,p_out=0,p_in=0)
    for r in train:
        x = record_photo(r),record_boxes(r),BoxCategorize(train.vocab).encodes(r.labels)
        _,b,l = t(x, split_idx=0)
        assert len(b)==len(l)==len(r.labels)

def test_color_is_the_composition_of_its_parts():
    x = TensorImage(torch.rand(64,3,8,8))
    m,o = color_maps(64, rng=random.Random(0))
    y = torch.einsum('bij,bjhw->bihw', m, x)+o[...,None]
    white = m@torch.ones(64,3,1)
    assert torch.allclose(white, white.mean(1,keepdim=True).expand(-1,3,1), atol=1e-5) # gray stays gray
    assert torch.isfinite(y).all()

@pytest.mark.parametrize('size', [224,(96,128)])
def test_batches(train, valid, size):
    dls = BBoxDataLoaders.from_annotations(train, valid, size=size, bs=16)
    assert dls.size==hw(size) and dls.vocab==train.vocab and dls.n_classes==3
    for dl in dls.loaders:
        for x,b,l in dl:
            assert x.shape[2:]==hw(size) and b.shape[:2]==l.shape and l.dtype==torch.int64
            assert type(b) is TensorBBox and type(l) is TensorMultiCategory
            bb = batch_boxes(b)[l>0]
            assert (bb>=0).all() and (bb<=1).all() and ((bb[:,2:]-bb[:,:2])>0).all() and torch.isfinite(x).all()

def test_valid_loses_nothing(train, valid):
    dls = BBoxDataLoaders.from_annotations(train, valid, size=128, bs=7)
    got = [bb[ll>0] for _,b,l in dls.valid for bb,ll in zip(batch_boxes(b),l)]
    for r,g in zip(valid,got):
        want = torch.from_numpy(r.boxes)/torch.tensor([*r.size]*2)
        assert torch.allclose(g, want, atol=1e-5)

def test_all_photos_empty_but_one(valid):
    empty = [Record(r.path,r.size,[],[]) for r in valid.records[:9]]
    t = Annotations(empty+valid.records[:1], valid.vocab)
    dls = BBoxDataLoaders.from_annotations(t, valid[:3], size=64, bs=4)
    for _,b,l in dls.train: assert l.dtype==torch.int64
    with pytest.raises(ValueError, match='nothing to learn'):
        BBoxDataLoaders.from_annotations(Annotations(empty,valid.vocab), valid)

def loaders(train, valid, **kwargs): return BBoxDataLoaders.from_annotations(train, valid, **kwargs)

def test_bad_pairs(train, valid):
    v3 = valid[3]
    new = Annotations([Record(v3.path,v3.size,[[1,1,9,9]],['virus'])])
    with pytest.raises(ValueError, match='virus'): loaders(train, new)
    with pytest.raises(ValueError, match='no photos in `valid`'): loaders(train, Annotations([]))
    more = Annotations(train.records[:20],train.vocab+['virus'])
    with pytest.warns(UserWarning, match='cannot be learned'): loaders(more, valid, size=64)
    with pytest.warns(UserWarning, match='using bs=5'): assert loaders(train[:5], valid, size=64).train.bs==5
    for box,say in (([5,5,5,9],'no area'),([9,9,5,5],'no area'),([900,5,950,9],'outside')):
        hand = Annotations(train.records[:3]+[Record(v3.path,v3.size,[box],['RBC'])],train.vocab)
        with pytest.raises(ValueError, match=f'{v3.path.name}.*{say}'): loaders(hand, valid)
    two = Annotations(train.records,['RBC','WBC'])
    with pytest.raises(ValueError, match='not in its vocab'): loaders(two, Annotations([valid.records[24]],['RBC']))
    with pytest.warns(UserWarning, match='in `train` and in `valid`'): loaders(train, train[:5], size=64)
    for s in (0,(1,2,3),-5,22.5):
        with pytest.raises(ValueError, match='size='): loaders(train, valid, size=s)

odd_photos = [('L',(50,40),'png'),('RGBA',(70,90),'png'),('RGB',(300,30),'png'),('P',(64,64),'png'),
              ('CMYK',(40,80),'tif'),('I;16',(33,55),'tif')]

def test_odd_photos_train_and_validate(tmp_path):
    rs = []
    for i,(mode,size,ext) in enumerate(odd_photos):
        Image.new(mode,size).save(f := tmp_path/f'{i}.{ext}')
        rs.append(Record(f,size,[[2,2,20,20]],['a']))
    a = Annotations(rs)
    for x,b,l in loaders(a, a, size=64, bs=6).valid: assert x.shape==(6,3,64,64) and (l==1).all()

def test_fastai_transforms_are_safe_or_refused(train, valid):
    for t in (FlipItem(),DihedralItem(),Resize(64),RandomCrop(64)):
        with pytest.raises(ValueError, match='lose boxes'): loaders(train, valid, item_tfms=[t])
    theirs = aug_transforms(do_flip=True,flip_vert=True,max_rotate=45,max_zoom=2,max_warp=.3)
    for x,b,l in loaders(train, valid, size=128, bs=16, batch_tfms=theirs).train:
        bb = batch_boxes(b)
        assert l.dtype==torch.int64 and (bb>=0).all() and (bb<=1).all()
        assert ((bb[l>0][:,2:]-bb[l>0][:,:2])>0).all()

def test_datablock_makes_our_loaders(train):
    dls = bbox_datablock(train.vocab, (96,128)).dataloaders(train.records, bs=8, num_workers=0)
    assert type(dls) is BBoxDataLoaders and dls.size==(96,128) and dls.vocab==train.vocab and len(dls.records[0])==192
    assert ssd_learner(dls, resnet18, pretrained=False).model.n_classes==3

def test_from_voc_keeps_valid_out_of_train(valid, tmp_path):
    valid.to_voc(tmp_path)
    (tmp_path/'val.txt').write_text('\n'.join(r.path.stem for r in valid.records[:10]))
    dls = BBoxDataLoaders.from_voc(valid.folder(), tmp_path, valid=tmp_path/'val.txt', size=64, bs=4)
    a,b = ({r.path for r in o} for o in dls.records)
    assert len(b)==10 and not a&b and len(a)==50
    with pytest.raises(TypeError): BBoxDataLoaders.from_voc(valid.folder(), tmp_path, batchsize=3)

def torchvision_window(zoom, crop, b, W, H):
    "A window of the paper's augmentation as torchvision v2 draws it, in pixels of the photo"
    from torchvision import tv_tensors
    pad,size = [0,0,0,0],(H,W)
    if torch.rand(1)<zoom.p: pad = zoom.make_params([tv_tensors.Image(torch.empty(3,H,W))])['padding']
    size = (H+pad[1]+pad[3],W+pad[0]+pad[2])
    moved = b+torch.tensor([pad[0],pad[1]]*2)
    canvas = tv_tensors.Image(torch.empty(1).expand(3,*size))
    p = crop.make_params([canvas,tv_tensors.BoundingBoxes(moved,format='XYXY',canvas_size=size)])
    w,h = p.get('width',size[1]),p.get('height',size[0])
    x,y = p.get('left',0)-pad[0],p.get('top',0)-pad[1]
    return x,y,x+w,y+h

def measure(win, b, W, H):
    "Area, aspect, fraction of objects kept, left edge, zoomed out?"
    cx,cy = ((b[:,:2]+b[:,2:])/2).T
    kept = int(((cx>win[0])&(cx<win[2])&(cy>win[1])&(cy<win[3])).sum())
    w,h = win[2]-win[0],win[3]-win[1]
    return w*h/(W*H), round(w/h,2), kept/len(b), win[0]/W, win[1]<0

@pytest.fixture(scope='module')
def windows():
    "5000 windows of the paper's augmentation, drawn by torchvision v2 and by us, as `measure` sees them"
    from torchvision.transforms import v2
    torch.manual_seed(0)
    random.seed(0)
    rng,(W,H) = np.random.default_rng(0),(640,480)
    zoom,crop,ours = v2.RandomZoomOut(),v2.RandomIoUCrop(),PaperWindow(300)
    res = dict(tv=[],ours=[])
    for _ in range(5000):
        n = int(rng.integers(1,12))
        wh = rng.uniform(.05,.5,(n,2))
        lo = rng.uniform(size=(n,2))*(1-wh)
        b = torch.from_numpy(np.concatenate([lo,lo+wh],1)*[W,H,W,H]).float()
        res['tv'].append(measure(torchvision_window(zoom,crop,b,W,H), b, W, H))
        res['ours'].append(measure(ours.draw(W,H,b), b, W, H))
    return {k:np.array(v,dtype=float).T for k,v in res.items()}

@pytest.mark.parametrize('i,what', enumerate(['area','aspect','fraction of objects kept','left edge','zoomed out']))
def test_same_windows_as_torchvision(windows, i, what):
    from scipy.stats import ks_2samp
    a,b = windows['tv'][i],windows['ours'][i]
    assert ks_2samp(a,b).pvalue>.005, (what,a.mean(),b.mean())

def test_flip_rate():
    random.seed(0)
    t,x = PaperWindow(64),(PILImage.create(np.zeros((48,64,3),np.uint8)),torch.tensor([[1.,1,20,20]]))
    t.training = True
    n = sum(t.pick(x)['flip'] for _ in range(5000))
    assert abs(n-2500)<4*(5000/4)**.5

def test_paper_window_of_an_empty_photo_is_a_window():
    random.seed(0)
    t,im = PaperWindow((96,128)),Image.fromarray(np.full((48,64,3),9,np.uint8))
    for _ in range(50):
        out,b,l = t(numbered_item(im,np.zeros((0,4),dtype=np.float32)), split_idx=0)
        assert out.size==(128,96) and b.shape==(0,4) and l.dtype==torch.int64
