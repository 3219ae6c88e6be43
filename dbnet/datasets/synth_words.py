"""What drawn scenes say: words of several scripts, numbers, prices, times, web addresses, and random letters."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np

#: Script -> letters by which a font is asked whether it has the script, and from which random words are made.
LETTERS = {
    "latin": string.ascii_letters,
    "accented": "àâäçéèêëîïôöùûüßñáíóúåøæÀÉÖÜÑŠŽčřěğşłńąę",
    "cyrillic": "абвгдежзиклмнопрстуфхцчшщыэюяАБВГДЕЖЗИКЛМНОПРСТУ",
    "greek": "αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔΕΘΛΞΠΣΦΨΩ",
    "chinese": "中国人民大学出口入商店银行医院地铁站北京上海广州公园请勿吸烟禁止停车欢迎光临"
               "安全火车机场酒店餐厅图书馆开放时间电话号码东西南街区市政府文化艺术",
    "japanese": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよ"
                "アイウエオカキクケコサシスセソタチツテトナニヌネノ駅店口禁煙注意",
    "korean": "가나다라마바사아자차카타파하서울부산출구입화장실식당약국병원은행지철버스정류주의금연",
}
#: How often a script is chosen, where all of them can be.
WEIGHTS = {"latin": 0.66, "accented": 0.07, "cyrillic": 0.06, "greek": 0.03, "chinese": 0.1, "japanese": 0.04,
           "korean": 0.04}
#: Scripts that put no blanks between words: a few letters stand together, and are one text.
UNSPACED = ("chinese", "japanese")
#: Scripts with capitals.
CASED = ("latin", "accented", "cyrillic", "greek")

WORDS = {
    "latin": """the of and to in is you that it for on are with as his they at be this from have or by one had not but
        what all were when we there can an your which their said if do will each about how up out them then she many
        some so these would other into has more her two like him see time could no make than first been its who now
        people my made over did down only way find use may water long little very after words called just where most
        know EXIT ENTRY OPEN CLOSED PUSH PULL STOP Taxi Bus Metro Station Platform Gate Hotel Restaurant Cafe Bar Bakery
        Pharmacy Hospital Police Library Museum Market Street Road Avenue Parking Toilet Tickets Information Lift Stairs
        Danger Warning Caution Private Sale New Free Fresh Coffee Tea Pizza Burger Fashion Shoes Books Bank Cash Pay
        Here Welcome Thank You Please Wait Call Now Best Price Quality Since Service Express Food Court Level Floor Room
        Office Only Staff No Smoking Emergency First Aid Fire Hose Keep Left Right Slow School Zone One Way City Centre
        Airport Terminal Arrivals Departures Departure Check-in Baggage Customs Singapore London Paris Berlin Madrid
        Roma Wien Oslo Delhi Tokyo Seoul Sydney Boston Chicago Orchard Garden Plaza Tower Bridge Harbour Beauty Salon
        Optical Jewellery Electronics Mobile Phone Repair Travel Tours Holiday Supermarket Bookshop Kitchen Noodle
        Rice Chicken Seafood Grill Juice Dessert Cake Bread Flowers Gifts Toys Sports Fitness Yoga Clinic Dental Skin
        Care Hair Spa Nails Laundry Tailor Furniture Lighting Hardware Paint Auto Tyres Battery Petrol Insurance Law
        Estate Rent Sold Offer Discount Buy Get Half Save More Less Today Daily Hours Monday Friday Sunday am pm
        Women Men Kids Ladies Unisex Level Basement Roof Carpark Exit Customer Counter Enquiry Members Card Queue""",
    "accented": """café crème fenêtre hôtel théâtre forêt garçon élève münchen straße öffnung ausgang gemüse größe
        bücher mañana niño señor año españa información salida estación smörgås kött malmö århus łódź kraków gdańsk
        źródło čeština pražská náměstí köy şehir çarşı güneş déjà très où là""",
    "cyrillic": """вход выход аптека магазин хлеб продукты метро станция вокзал ресторан кафе гостиница улица площадь
        музей театр школа касса билеты внимание осторожно закрыто открыто Москва Россия почта банк""",
    "greek": """έξοδος είσοδος φαρμακείο τράπεζα ξενοδοχείο εστιατόριο σταθμός μουσείο αγορά πλατεία οδός προσοχή
        Αθήνα""",
}
VOCABULARY = {script: words.split() for script, words in WORDS.items()}
#: What signs put around words.
AROUND = ("{}!", "{}.", "{},", "{}:", "({})", "{}?", "{}!!", "'{}'", "\"{}\"", "-{}-", "&", "{}'s", "{}...")


def word(script: str, rng: np.random.Generator, has: Callable[[str], bool]) -> str:
    """One word of that script, as a scene would show it. has: which letters there are, for words made of any."""
    kind = rng.random()
    if script == "latin" and kind < 0.22:
        return _number(rng)
    if script in VOCABULARY and kind < 0.8:
        text = _cased(str(rng.choice(VOCABULARY[script])), rng)
        return AROUND[int(rng.integers(len(AROUND)))].format(text) if rng.random() < 0.06 else text
    least, most = (2, 10) if script in CASED else (1, 8)
    letters = LETTERS[script]
    chosen = rng.integers(0, len(letters), int(rng.integers(least, most)))
    text = "".join(letters[i] for i in chosen if has(letters[i]))
    return _cased(text, rng) if script in CASED else text


def _cased(text: str, rng: np.random.Generator) -> str:
    choice = rng.random()
    if choice < 0.4:
        return text.upper()
    return text.capitalize() if choice < 0.7 else text


def _number(rng: np.random.Generator) -> str:
    digits = "".join(map(str, rng.integers(0, 10, 8)))
    one, two, three, four = (digits[:n] for n in (1, 2, 3, 4))
    rest = digits[2:4]
    forms = (one, two, three, four, f"{two}:{rest}", f"${two}.{rest}", f"{two}%", f"{three}-{digits[3:7]}",
             f"#{two}-{rest}", f"{one}F", f"www.{three}.com", f"{two}/{rest}", f"{two}m", f"©{four}", f"A{two}",
             f"+{digits}", f"{one}.{rest}", f"B{one}")
    return forms[int(rng.integers(len(forms)))]
