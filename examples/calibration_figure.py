def draw_figure(p): pass
def update_readme(r,p): pass
