"Kinds of photos, and what opening them must give: the right pixels, a warning, or an error that names the file"
import io, struct, warnings, zlib
import numpy as np, pytest
from PIL import Image
from ssd_fastai.all import *
from ssd_fastai.data.photos import *
from ssd_fastai.data.photos import PhotoWarning

def scene(size=(60,40), seed=0):
    "A smooth colored picture that looks different from every side"
    small = np.random.default_rng(seed).integers(0, 255, (4,6,3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)

def with_exif(f, value, kind=3, size=(60,40)):
    "A JPEG whose EXIF orientation is `value`, byte by byte: kind 3 is a short, 4 a long, 2 a text, 5 a fraction"
    data,tail = struct.pack('<I', value) if kind<5 and kind!=2 else b'\0\0\0\0',b''
    if kind==2: data = str(value).encode().ljust(4, b'\0')
    if kind==5: data,tail = struct.pack('<I', 26),struct.pack('<II', value, 1)
    entry = struct.pack('<HHI', 0x112, kind, 2 if kind==2 else 1)+data
    tiff = b'II*\0'+struct.pack('<I', 8)+struct.pack('<H', 1)+entry+struct.pack('<I', 0)+tail
    body = b'Exif\0\0'+tiff
    buf = io.BytesIO()
    scene(size).save(buf, 'JPEG', quality=95)
    jpg = buf.getvalue()
    f.write_bytes(jpg[:2]+b'\xff\xe1'+struct.pack('>H', len(body)+2)+body+jpg[2:])
    return f

def quiet(f, *args):
    "(result, texts of the warnings)"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        return f(*args),[str(o.message) for o in told if issubclass(o.category,PhotoWarning)]

# How a photo is turned

cases = [(v,k) for v in range(11) for k in (3,4)] + [(65535,3),(65537,4),(49,3),(6,2),(9,2),(6,5),(0,5)]

@pytest.mark.parametrize('value,kind', cases)
def test_size_and_photo_agree_for_every_exif_value(tmp_path, value, kind):
    f = with_exif(tmp_path/'a.jpg', value, kind)
    photo = open_photo(f)
    assert photo_size(f)==photo.size
    with Image.open(f) as im: o = orientation(im)
    assert photo_layout(f)==(photo.size,o)
    assert o==(value if 2<=value<=8 and kind in (3,4) else 1)
    assert photo.size==((40,60) if o>4 else (60,40))

@pytest.mark.parametrize('o', range(1,9))
@pytest.mark.parametrize('ext', ['jpg','png','tif','webp'])
def test_every_kind_of_file_is_turned_once(tmp_path, o, ext):
    "Oracle: the picture that was turned the other way before it was stored"
    back = {2:'FLIP_LEFT_RIGHT', 3:'ROTATE_180', 4:'FLIP_TOP_BOTTOM',
            5:'TRANSPOSE', 6:'ROTATE_90', 7:'TRANSVERSE', 8:'ROTATE_270'}
    seen = scene()
    stored = seen.transpose(Image.Transpose[back[o]]) if o>1 else seen
    exif = Image.Exif()
    exif[0x112] = o
    f = tmp_path/f'a.{ext}'
    stored.save(f, exif=exif, **({'quality':95} if ext in ('jpg','webp') else {}))
    photo = open_photo(f)
    assert photo_layout(f)==(seen.size,o) and photo.size==seen.size
    assert np.abs(np.asarray(photo,dtype=float)-np.asarray(seen)).mean()<4
    assert to_rgb(photo).size==photo.size and photo.getexif().get(0x112) is None

def test_exif_behind_the_pixels_of_a_png(tmp_path):
    buf,exif = io.BytesIO(),Image.Exif()
    scene().save(buf, 'PNG')
    exif[0x112] = 6
    body = exif.tobytes()[6:] if exif.tobytes()[:4]==b'Exif' else exif.tobytes()
    chunk = struct.pack('>I', len(body))+b'eXIf'+body+struct.pack('>I', zlib.crc32(b'eXIf'+body))
    png = buf.getvalue()
    (tmp_path/'a.png').write_bytes(png[:-12]+chunk+png[-12:])
    assert photo_size(tmp_path/'a.png')==open_photo(tmp_path/'a.png').size==(40,60)

def test_damaged_exif_is_ignored(tmp_path):
    f = with_exif(tmp_path/'a.jpg', 6)
    f.write_bytes(f.read_bytes().replace(b'II*\0', b'IX*\0'))
    assert photo_size(f)==open_photo(f).size==(60,40)

# How deep it is

ramp = np.linspace(0, 1, 60*40).reshape(40,60)
depths = { # values, is it told?
    'float 0 to 1':(ramp.astype('f'),True), 'float 0 to 255':((ramp*255).astype('f'),True),
    'float -1 to 1':((ramp*2-1).astype('f'),True), 'float of reflectances':((ramp*.04).astype('f'),True),
    'float of meters':((ramp*3000+200).astype('f'),True), 'int32 0 to 255':((ramp*255).astype('i4'),True),
    'int32 0 to 100000':((ramp*1e5).astype('i4'),True), 'int32 below zero':((ramp*500-250).astype('i4'),True),
    'int32 of 16 bits':((ramp*65535).astype('i4'),True), '8 bits in 16':((ramp*255).astype('u2'),True),
    '10 bits in 16':((ramp*1023).astype('u2'),True), '12 bits in 16':((ramp*4095).astype('u2'),True),
    '14 bits in 16':((ramp*16383).astype('u2'),True), '16 bits':((ramp*65535).astype('u2'),False)}

@pytest.mark.parametrize('name', depths)
def test_deep_photos_are_neither_black_nor_white(tmp_path, name):
    a,warn = depths[name]
    f = tmp_path/'deep.tif'
    Image.fromarray(a).save(f)
    photo,told = quiet(open_photo, f)
    g = np.asarray(photo)[...,0].astype(float)
    assert g.max()>240 and g.min()<20 and 100<g.mean()<160
    assert np.corrcoef(g.ravel(), ramp.ravel())[0,1]>.99
    assert bool(told)==warn and all(str(f) in o for o in told)

def test_not_a_number_is_black_and_told(tmp_path):
    a = ramp.astype('f')
    a[:4],a[4] = np.nan,np.inf
    Image.fromarray(a).save(tmp_path/'deep.tif')
    photo,told = quiet(open_photo, tmp_path/'deep.tif')
    assert not np.asarray(photo)[:5].any() and np.asarray(photo).max()==255 and 'not finite' in told[0]
    Image.fromarray(np.full((4,4),np.nan,'f')).save(tmp_path/'none.tif')
    assert not np.asarray(quiet(open_photo, tmp_path/'none.tif')[0]).any()

def deep_color_png(f, a):
    "PIL cannot write 16 bits a channel, so here is a PNG by hand"
    h,w,c = a.shape
    rows = b''.join(b'\0'+row.astype('>u2').tobytes() for row in a)
    def chunk(name, data): return struct.pack('>I', len(data))+name+data+struct.pack('>I', zlib.crc32(name+data))
    head = struct.pack('>IIBBBBB', w, h, 16, {2:4,3:2,4:6}[c], 0, 0, 0)
    f.write_bytes(b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR',head)+chunk(b'IDAT',zlib.compress(rows))+chunk(b'IEND',b''))
    return f

@pytest.mark.parametrize('white,told', [(1023,True),(4095,True),(16383,True),(65535,False)])
@pytest.mark.parametrize('channels', [3,4])
def test_color_with_16_bits_a_channel(tmp_path, white, told, channels):
    a = np.stack([ramp*white]*channels, -1)
    if channels==4: a[...,3] = white
    photo,texts = quiet(open_photo, deep_color_png(tmp_path/'deep.png', a))
    assert np.asarray(photo).max()>240 and bool(texts)==told

def test_a_dark_photo_of_8_bits_stays_dark(tmp_path):
    Image.new('RGB', (8,8), (9,9,9)).save(tmp_path/'night.png')
    photo,told = quiet(open_photo, tmp_path/'night.png')
    assert photo.getpixel((0,0))==(9,9,9) and not told

# What else a file can be

@pytest.mark.parametrize('ext', ['tif','gif','webp','png'])
def test_several_pages_are_told(tmp_path, ext):
    f = tmp_path/f'a.{ext}'
    scene().save(f, save_all=True, append_images=[scene(seed=1),scene(seed=2)])
    photo,told = quiet(open_photo, f)
    assert photo.size==(60,40) and len(told)==1 and '3 pages' in told[0] and str(f) in told[0]
    assert np.abs(np.asarray(photo,dtype=float)-np.asarray(scene())).mean()<12

def test_the_preview_in_a_photo_of_a_phone_is_not_told(tmp_path):
    scene().save(tmp_path/'a.jpg', 'MPO', save_all=True, append_images=[scene((30,20))])
    assert Image.open(tmp_path/'a.jpg').format=='MPO' and quiet(open_photo, tmp_path/'a.jpg')[1]==[]
    assert photo_size(tmp_path/'a.jpg')==(60,40)

def test_a_decompression_bomb_is_named_and_the_remedy_works(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    f = tmp_path/'bomb.png'
    scene().save(f)
    for open_it in (open_photo,photo_size):
        with pytest.raises(BadPhoto, match='MAX_IMAGE_PIXELS = None') as e: open_it(f)
        assert str(f) in str(e.value)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    assert open_photo(f).size==photo_size(f)==(60,40)

@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_a_huge_photo_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2000)
    scene().save(tmp_path/'big.png')
    assert 'million pixels' in quiet(open_photo, tmp_path/'big.png')[1][0]

def test_a_photo_that_changed_is_told_when_it_is_opened(tmp_path):
    scene().save(tmp_path/'a.png')
    r = Record(tmp_path/'a.png', (60,40), [[1,1,20,20]], ['x'])
    assert open_photo(r.path, r.size).size==r.size
    scene((80,40)).save(tmp_path/'a.png')
    with pytest.raises(BadPhoto, match='a.png is 80×40 pixels, but was 60×40 when its labels were read'):
        open_photo(r.path, r.size)

def test_a_photo_that_changed_stops_training(tmp_path):
    for i in range(4): scene(seed=i).save(tmp_path/f'{i}.png')
    a = Annotations([Record(tmp_path/f'{i}.png',(60,40),[[1,1,20,20]],['x']) for i in range(4)])
    dls = BBoxDataLoaders.from_annotations(a[:2], a[2:], size=32, bs=2)
    scene((40,60)).save(tmp_path/'3.png')
    with pytest.raises(BadPhoto, match='3.png is 40×60'): dls.valid.one_batch()

broken = dict(text=b'no photo', empty=b'', heic=b'\0\0\0\x18ftypheic', gif=b'GIF89a\x05\0\x05\0',
              tif=b'II*\0\x08\0\0\0\xff\xff'+b'\xff'*40)

@pytest.mark.parametrize('name', broken)
def test_broken_files_are_named(tmp_path, name):
    f = tmp_path/f'a.{name}'
    f.write_bytes(broken[name])
    for open_it in (open_photo,photo_size,lambda p: open_photo(p, (3,3))):
        with pytest.raises(BadPhoto, match=f'a.{name} cannot be read'): open_it(f)
    assert fingerprint(f)==(None,None)

def test_a_folder_and_a_missing_file(tmp_path):
    for open_it in (open_photo,photo_size):
        with pytest.raises(BadPhoto, match='cannot be read'): open_it(tmp_path)
        with pytest.raises(FileNotFoundError, match='gone.jpg'): open_it(tmp_path/'gone.jpg')

@pytest.mark.parametrize('ext', ['jpg','png','tif','gif','bmp','webp'])
def test_mutated_files_raise_one_kind_of_error(tmp_path, ext):
    rng,f = np.random.default_rng(0),tmp_path/f'a.{ext}'
    scene().save(f)
    good,n_bad = f.read_bytes(),0
    for _ in range(60):
        bad = bytearray(good)
        for i in rng.integers(0, len(bad), rng.integers(1,12)): bad[i] = rng.integers(256)
        f.write_bytes(bytes(bad[:rng.integers(1,len(bad)+1)]) if rng.random()<.3 else bytes(bad))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: size = photo_size(f)
            except BadPhoto as e:
                assert str(f) in str(e)
                n_bad += 1
                continue
            try: assert open_photo(f).size==size
            except BadPhoto as e: assert str(f) in str(e)
    assert n_bad

# Labels drawn on the photo as it is stored

def flat(size, box):
    im = Image.new('RGB', size, (230,230,230))
    im.paste((200,30,30), tuple(box))
    return im

def read_one(tmp_path, o, size, box, said=None):
    exif = Image.Exif()
    exif[0x112] = o
    flat(size, box).save(tmp_path/'a.jpg', exif=exif, quality=95)
    x0,y0,x1,y1 = box
    im = dict(id=1, file_name='a.jpg', **(dict(width=said[0],height=said[1]) if said else {}))
    ann = dict(id=1, image_id=1, category_id=1, bbox=[x0,y0,x1-x0,y1-y0])
    d = dict(images=[im], categories=[dict(id=1,name='x')], annotations=[ann])
    (tmp_path/'a.json').write_text(json.dumps(d))
    return read_coco(tmp_path/'a.json', tmp_path)

unturned = [(6,(96,64),(5,5,25,25),(96,64)), (3,(96,64),(5,5,25,25),(96,64)), (6,(64,64),(5,5,25,25),(64,64)),
            (6,(96,64),(5,5,25,25),None), (8,(96,64),(60,20,90,40),None),
            (2,(96,64),(5,5,25,25),(96,64)), (4,(96,64),(40,4,70,20),None)]

@pytest.mark.parametrize('o,size,box,said', unturned)
def test_labels_of_the_stored_photo_are_refused_and_both_remedies_work(tmp_path, o, size, box, said):
    with pytest.raises(BadPhoto, match='before EXIF turns it') as e: read_one(tmp_path, o, size, box, said)
    assert 'a.jpg' in str(e.value)
    f = tmp_path/'a.jpg'
    stored = f.read_bytes()
    Image.open(f).save(f, quality=95)               # they were drawn like that
    a = read_coco(tmp_path/'a.json', tmp_path)
    assert a[0].size==size and a[0].boxes.tolist()==[list(box)]
    f.write_bytes(stored)
    photo = open_photo(f)                           # they are right
    photo.save(f, quality=95)
    if said in (None,photo.size): assert read_coco(tmp_path/'a.json', tmp_path)[0].size==photo.size

@pytest.mark.parametrize('o', range(1,9))
def test_right_labels_on_turned_photos_are_read(tmp_path, o):
    size,box = (96,64),[5,5,25,25]
    seen = size if o<5 else size[::-1]
    exif = Image.Exif()
    exif[0x112] = o
    flat(size, box).save(tmp_path/'a.jpg', exif=exif, quality=95)
    df = pd.DataFrame([('a.jpg','x',*turned_boxes([box],o,seen)[0])], columns=['path','label','x0','y0','x1','y1'])
    r = read_csv(df, tmp_path)[0]
    x0,y0,x1,y1 = r.boxes[0].astype(int)
    assert r.size==seen and np.asarray(open_photo(r.path))[y0+2:y1-2,x0+2:x1-2,1].max()<100

def test_boxes_of_plain_photos_are_never_suspected(tmp_path, train):
    for o in range(2,9):
        for r in train.records[:20]: assert unturned_score(open_photo(r.path), r.boxes, o, r.size)<=1

# The same photo twice

def test_look_alikes_equal_comparing_each_with_each(cells):
    files = sorted((cells/'images').iterdir())[:60]
    t = np.stack([fingerprint(f)[1] for f in files])
    rng = np.random.default_rng(0)
    t = np.concatenate([t, *(t+rng.normal(0,s,t.shape).astype('f') for s in (1,2.5,3,4))])
    got = look_alikes(t, t, k=len(t))
    for i,x in enumerate(t): assert sorted(got[i])==np.flatnonzero(np.abs(t-x).mean((1,2,3))<3).tolist()
    few = look_alikes(t, t, k=2)
    assert all(len(o)==min(2,len(g)) and o[0]==i for i,(o,g) in enumerate(zip(few,got)))

def test_a_chain_of_frames_is_one_group(tmp_path):
    for i in range(12): scene().point(lambda v: v//2+i*2).save(tmp_path/f'{i:02}.png') # each a little brighter
    scene(seed=5).save(tmp_path/'other.png')
    (tmp_path/'text.png').write_text('no photo')
    files = [*sorted(tmp_path.glob('[0-9]*.png')), tmp_path/'other.png', tmp_path/'text.png', tmp_path/'gone.png']
    t = [fingerprint(f)[1] for f in files]
    assert np.abs(t[0]-t[11]).mean()>6 and np.abs(t[0]-t[1]).mean()<3
    assert photo_groups(files)==[[*range(12)],[12],[13],[14]]
