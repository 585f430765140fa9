def lottery_table(out): return ""
def draw(*a): pass
