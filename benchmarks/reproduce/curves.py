def lottery_table(out): return ""
def draw(*a): pass
def unit_table(*a): return ""
