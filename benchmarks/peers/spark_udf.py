"""Spark on two cores, by its predict_batch_udf."""

import os
import sys

from model import batch_size
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import DoubleType, ShortType, StructField, StructType

archive, model, out, backend = sys.argv[1:]


def make_predict():
    """Return the function that scores a batch; called once in each Python worker."""
    from model import load_model, scored, to_pixels

    predictor = load_model(model, backend, num_threads=1)

    def predict(images):
        columns = scored([], predictor(to_pixels([bytes(image) for image in images])))
        return {key: columns[key] for key in ("predicted_sum", "finished_at")}

    return predict


os.environ["PYSPARK_PYTHON"] = sys.executable
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
fields = [StructField("predicted_sum", ShortType()), StructField("finished_at", DoubleType())]
predict = predict_batch_udf(
    make_predict, return_type=StructType(fields), batch_size=batch_size(backend)
)
images = spark.read.parquet(archive).select("image_id", "image")
scores = images.select("image_id", predict("image").alias("scored"))
scores.select("image_id", "scored.predicted_sum", "scored.finished_at").write.parquet(out)
