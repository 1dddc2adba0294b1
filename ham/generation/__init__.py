"""Stage 3: caption a list of images, restartable at any instant.

config: options. image_lists, plan: what the job is. style_draws: which style an image gets. shards, run, loading: the work.
engines and the modules that it names: what captions. filters: which captions are kept. merge, status, samples, diversity: the
results. retry: failed images again.
"""
