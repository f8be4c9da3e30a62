"""The registry of studies that go through the whole pipeline in a test: one model of a moment."""

MODELS = """
mini:
  weights: pretrain
  architecture:
    model_type: llama
    vocab_size: 400
    hidden_size: 32
    intermediate_size: 64
    num_hidden_layers: 2
    num_attention_heads: 2
    max_position_embeddings: 256
    tie_word_embeddings: false
  pretrain: {num_steps: 20, batch_size: 4, sequence_length: 32, learning_rate: 0.003}
"""
