"""Numbers that stand for names where compiled code is called."""

PRED2D, RASTER, SERPENTINE = 0, 1, 2
EXACT, MAX, MAE, RMSE = 0, 1, 2, 3
