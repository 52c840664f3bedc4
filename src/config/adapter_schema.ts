// SPDX-License-Identifier: Apache-2.0
/** The config's adapter section: the keys of peft's LoraConfig under their own names. */
import { z } from 'zod';

const name = z.string().min(1);
const names = z.array(name).min(1);
const rank = z.int().min(1);
const tokenIds = z.array(z.int().min(0)).min(1);

export const adapterSchema = z
  .strictObject({
    type: z
      .enum(['lora', 'full'])
      .default('lora')
      .describe(
        'What trains. lora: an adapter. full: every parameter of the model, which is written whole; none of the other keys here are for it.',
      ),
    r: rank.default(8).describe('Rank of the update lora_B @ lora_A.'),
    lora_alpha: z
      .number()
      .gt(0)
      .default(8)
      .describe('Scale of the update: lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora.'),
    lora_dropout: z
      .number()
      .min(0)
      .lt(1)
      .default(0)
      .describe('Probability that an input of lora_A is dropped in training; the embeddings have no dropout.'),
    target_modules: z
      .union([names, name])
      .default(['x_proj', 'embeddings', 'in_proj', 'out_proj'])
      .describe(
        'Modules to adapt: a list of names (of embeddings, in_proj, conv1d, x_proj, dt_proj, out_proj; whole or as the end of a path), one string that is a regular expression for whole module paths, or all-linear.',
      ),
    exclude_modules: z
      .union([names, name])
      .nullable()
      .default(null)
      .describe('Modules not to adapt although target_modules names them: names or one regular expression, as there.'),
    layers_to_transform: z
      .union([z.array(z.int().min(0)).min(1), z.int().min(0)])
      .nullable()
      .default(null)
      .describe(
        'Layers, from 0, to adapt alone; needs target_modules as a list. Modules outside the layers are then named by their whole path.',
      ),
    layers_pattern: z
      .union([names, name])
      .nullable()
      .default(null)
      .describe('Name of the list whose indices layers_to_transform means; Mamba has only layers, the default.'),
    rank_pattern: z
      .record(name, rank)
      .default({})
      .describe(
        'Ranks other than r: from module names, or regular expressions for the end of a module path, to ranks. The first that matches counts.',
      ),
    alpha_pattern: z
      .record(name, z.number().gt(0))
      .default({})
      .describe('Values of lora_alpha of single modules, as rank_pattern.'),
    bias: z
      .enum(['none', 'all', 'lora_only'])
      .default('none')
      .describe('Base biases that train: none, all of the model, or those of the adapted modules.'),
    lora_bias: z.boolean().default(false).describe('Give lora_B a bias that trains. Not for the embeddings.'),
    modules_to_save: names
      .nullable()
      .default(null)
      .describe(
        'Modules and parameters that train whole and are stored in the adapter: norm, norm_f, conv1d, lm_head, A_log, D, dt_proj.bias, or any other by the end of its path.',
      ),
    trainable_token_indices: z
      .union([tokenIds, z.record(name, tokenIds)])
      .nullable()
      .default(null)
      .describe(
        'Ids of tokens whose rows of the embeddings train, such as those of added tokens; a tied head has them too. Not with embeddings in target_modules. A list, or the list at the key embeddings.',
      ),
    use_rslora: z.boolean().default(false).describe('Rank-stabilised scale, lora_alpha / sqrt(r) (arXiv 2312.03732).'),
    use_dora: z
      .boolean()
      .default(false)
      .describe(
        'Weight-decomposed LoRA (arXiv 2402.09353): a magnitude for each output of an adapted module trains beside lora_A and lora_B.',
      ),
    init_lora_weights: z
      .literal([true, false, 'gaussian', 'pissa', 'olora', 'orthogonal'])
      .default(true)
      .describe(
        'Fresh weights. true: lora_A Kaiming-uniform and lora_B zero (embeddings: A zero, B normal), so the start is the base model; gaussian: lora_A normal with deviation 1/r; pissa, olora: the principal part of the weight, by singular values or QR, which the weight is then without; orthogonal: both random, with a product of zero; false: lora_B is not zero either.',
      ),
    init_from: name
      .nullable()
      .default(null)
      .describe(
        'Adapter folder (PEFT files, relative to the current directory) whose weights training starts from. Its settings must agree with this section.',
      ),
  })
  .describe('The adapter to train.');
